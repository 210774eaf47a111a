"""``--set NAME=VALUE`` and ``--rounds 0``: values without an option of their own, and runs without a round."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpartial.cli import run as command
from fedpartial.cli.bundle import Options as BundleOptions
from fedpartial.cli.bundle import write_bundle
from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.main import app
from fedpartial.cli.overrides import parse_settings, values_to_change, with_overrides
from fedpartial.cli.prepare import Checked, Options, Refused, check
from fedpartial.errors import ConfigError

NO_OPTION = {"preset": None, "rounds": None, "local_steps": None, "seed": None}


@pytest.fixture
def checked(tmp_path: Path):
    """``checked("psmos", sites=(...))`` is all that ``fedpartial run`` does before it starts the simulator."""

    def run(job: str, **options) -> Checked:
        return check(Options(job=job, **options), tmp_path, lambda *_: tmp_path / "out")

    return run


# --- the values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=0", 0),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=null", None),
        ('a=["full", "liver"]', ["full", "liver"]),
        ('a="7"', "7"),
        ("a=phantom_psmos", "phantom_psmos"),
        ("a=[full]", "[full]"),
        ("a=", ""),
        ("a=b=c", "b=c"),
    ],
)
def test_a_value_is_json_or_text(text, value):
    found = parse_settings([text])
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_several_settings_and_none():
    assert parse_settings(["a=1", "b_2=x"]) == {"a": 1, "b_2": "x"}
    assert parse_settings([]) == {}


@pytest.mark.parametrize("texts", [["a"], [""], ["=1"], ["A=1"], ["a b=1"], ["2a=1"], ["a.b=1"], ["a=1", "a=1"]])
def test_a_setting_without_a_name_of_its_own_is_refused(texts):
    with pytest.raises(ConfigError, match="NAME=VALUE, each name once") as caught:
        parse_settings(texts)
    assert caught.value.got == texts[-1]


def test_a_name_that_also_has_an_option_is_given_once():
    with pytest.raises(ConfigError, match="no option of its own") as caught:
        values_to_change(**{**NO_OPTION, "rounds": 3}, others={"num_rounds": 4})
    assert caught.value.got == "num_rounds"
    assert values_to_change(**NO_OPTION, others={"num_rounds": 4}) == {"num_rounds": 4}


def test_a_wrong_setting_ends_the_command_with_one_line(monkeypatch):
    monkeypatch.setattr(command, "run_job", pytest.fail)
    result = CliRunner().invoke(app, ["run", "psmos", "--set", "pretrain_rounds"])
    assert result.exit_code == 2
    assert "--set: set: got 'pretrain_rounds'" in result.output


def test_settings_reach_the_run(monkeypatch):
    seen = []
    monkeypatch.setattr(command, "run_job", lambda options, *_: seen.append(options) or 0)
    arguments = ["run", "psmos", "--set", "pretrain_rounds=0", "--set", 'pretrain_sites=["liver"]', "--rounds", "0"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (seen[0].values, seen[0].rounds) == ({"pretrain_rounds": 0, "pretrain_sites": ["liver"]}, 0)


# --- in a job -----------------------------------------------------------------------------------------


def test_a_variable_that_the_job_does_not_have_is_refused_by_name(checked):
    with pytest.raises(Refused) as caught:
        checked("fedavg", values={"pretrain_rounds": 0})
    (fault,) = caught.value.faults
    assert (fault.field, fault.got) == ("pretrain_rounds", "no such key")
    assert fault.where.endswith("config_fed_server.json")


def test_settings_reach_the_plan(checked):
    found = checked("psmos", values={"pretrain_sites": ["liver"], "validate_every": 2}, seed=3)
    plan, given = found.plan, read_job(find_job("psmos")).server
    assert (plan.pretrain_sites, plan.validate_every, plan.seed) == (("liver",), 2, 3)
    assert (plan.pretrain_rounds, plan.num_rounds) == (given["pretrain_rounds"], given["num_rounds"])


def test_without_pretraining_psmos_needs_no_fully_annotated_site(checked):
    found = checked("psmos", values={"pretrain_rounds": 0}, sites=("kidney", "liver"))
    assert found.plan.pretrain_rounds == 0
    assert [site.name for site in found.sites] == ["kidney", "liver"]
    assert found.job.server["min_clients"] == 2


def test_a_pretraining_site_that_takes_no_part_is_refused_before_the_run(checked):
    with pytest.raises(Refused) as caught:
        checked("psmos", sites=("kidney", "liver"))
    (fault,) = caught.value.faults
    assert (fault.field, fault.got) == ("pretrain_sites", "full")
    assert "kidney, liver" in fault.expected
    assert "--set pretrain_rounds=0" in fault.remedy
    assert "add full to --sites" in fault.remedy


def test_a_bundle_is_checked_the_same_way(tmp_path):
    given = {"job": "psmos", "sites": ("kidney", "liver")}
    with pytest.raises(Refused, match="pretrain_sites"):
        write_bundle(BundleOptions(out=tmp_path / "first", **given))
    _, plan = write_bundle(BundleOptions(out=tmp_path / "second", values={"pretrain_rounds": 0}, **given))
    assert plan.pretrain_rounds == 0
    assert not (tmp_path / "first").exists()


def test_more_pretraining_than_rounds_is_refused(checked):
    with pytest.raises(Refused) as caught:
        checked("psmos", rounds=2)
    (fault,) = caught.value.faults
    assert "pretrain_rounds" in str(fault)
    assert "at most num_rounds, which is 2" in str(fault)


def test_a_job_without_rounds_is_a_job(tmp_path):
    values = values_to_change(**{**NO_OPTION, "rounds": 0}, others={"pretrain_rounds": 0})
    job = write_job(with_overrides(read_job(find_job("psmos_adapt")), values, None), tmp_path / "copy")
    plan, faults = check_job(job, tmp_path / "build")
    assert faults == []
    assert plan.num_rounds == 0
