"""``--set NAME=VALUE`` and ``--rounds 0``: values without an option of their own, and runs without a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpartial.cli import run as command
from fedpartial.cli.bundle import Options as BundleOptions
from fedpartial.cli.bundle import write_bundle
from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.main import app
from fedpartial.cli.overrides import values_to_change, with_overrides
from fedpartial.cli.prepare import Checked, Options, check
from fedpartial.cli.refused import Refused
from fedpartial.cli.settings import OPTIONS, parse_settings
from fedpartial.cli.start_model import START_MODEL
from fedpartial.errors import ConfigError
from fedpartial.flare.code_check import MANIFEST
from fedpartial.server.heads import initial_shared
from fedpartial.training.model_file import model_info, save_model
from fedpartial.training.plan import Plan

ALL_JOBS = sorted(meta.parent.name for meta in (Path(__file__).parents[2] / "jobs").glob("*/meta.json"))
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


def test_what_a_preset_brings_was_not_given(checked):
    """The lengths of the preset are no second value for the name."""
    values = {"num_rounds": 7, "pretrain_rounds": 2}
    plan = checked("psmos", preset="psmos", values=values).plan
    assert (plan.num_rounds, plan.pretrain_rounds, plan.local_steps) == (7, 2, 50)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_name_with_an_option_of_its_own_is_refused_with_the_option(name):
    with pytest.raises(ConfigError, match=r"has no option of its own\. Use --") as caught:
        parse_settings([f"{name}=1"])
    assert OPTIONS[name] in caught.value.remedy


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


@pytest.mark.parametrize("job", ALL_JOBS)
def test_every_job_takes_half_precision_on_the_wire_though_none_names_it(job, tmp_path):
    given = read_job(find_job(job))
    assert "wire" not in json.dumps(given.server)
    copy = write_job(with_overrides(given, {"wire": "float16"}, None), tmp_path / "job")
    plan, faults = check_job(copy, tmp_path / "check")
    assert (faults, plan.wire) == ([], "float16")


def test_another_wire_is_refused_before_the_run(checked):
    with pytest.raises(Refused) as caught:
        checked("fedavg", values={"wire": "int8"})
    (fault,) = caught.value.faults
    assert fault.field.endswith("wire")
    assert "float32, float16" in fault.expected


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
    assert "--set pretrain_rounds=NUMBER" in fault.remedy


def test_fewer_rounds_go_with_less_pretraining(checked):
    plan = checked("psmos", rounds=2, values={"pretrain_rounds": 1}).plan
    assert (plan.num_rounds, plan.pretrain_rounds) == (2, 1)


# --- no rounds ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of jobs/psmos_adapt, as a run of psmos leaves it."""
    plan = Plan(job="psmos", preset="phantom_psmos", num_rounds=1, local_steps=1)
    path = tmp_path_factory.mktemp("earlier") / "model.safetensors"
    save_model(path, initial_shared(plan), model_info(plan, 1))
    return path


def test_without_rounds_a_run_needs_a_model_to_start_from(checked):
    with pytest.raises(Refused) as caught:
        checked("psmos_adapt", rounds=0, values={"pretrain_rounds": 0})
    (fault,) = caught.value.faults
    assert (fault.field, fault.got) == ("num_rounds", 0)
    assert "--start-from MODEL" in fault.remedy


def test_a_model_that_exists_is_adapted_without_a_round(checked, model):
    found = checked("psmos_adapt", rounds=0, values={"pretrain_rounds": 0}, start_from=model)
    assert found.plan.num_rounds == 0
    assert (found.job.folder / "app" / START_MODEL).read_bytes() == model.read_bytes()


def test_it_can_be_bundled_too(tmp_path, model):
    given = {"job": "psmos_adapt", "rounds": 0, "values": {"pretrain_rounds": 0}}
    with pytest.raises(ConfigError, match="a model to start from"):
        write_bundle(BundleOptions(out=tmp_path / "first", **given))
    job, plan = write_bundle(BundleOptions(out=tmp_path / "second", start_from=model, **given))
    assert plan.num_rounds == 0
    assert (tmp_path / "second" / "app" / START_MODEL).exists()
    assert check_job(job, tmp_path / "build")[1] == []
    options = json.loads((tmp_path / "second" / "app" / "config" / MANIFEST).read_text(encoding="utf-8"))["options"]
    assert options["start_from"] == model.name, "no path of this machine"
    assert options["values"] == {"pretrain_rounds": 0}
