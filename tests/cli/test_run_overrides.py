"""The options of ``fedpartial run`` change a copy of the job, all of it and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.overrides import values_to_change, with_overrides
from fedpartial.errors import ConfigError
from fedpartial.presets import PRESETS

NOTHING = {"preset": None, "rounds": None, "local_steps": None, "seed": None}


def changed(job: Path, target: Path, sites=None, **options) -> tuple[dict, dict]:
    """meta.json and the server's configuration of the copy."""
    copy = write_job(with_overrides(read_job(job), values_to_change(**{**NOTHING, **options}), sites), target)
    return json.loads((target / "meta.json").read_text()), json.loads(copy.server_config.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_job_is_found_by_path_and_by_name(job, monkeypatch):
    monkeypatch.chdir(job.parents[1])
    assert find_job(str(job)) == job
    assert find_job("condistfl") == job
    assert find_job("jobs/condistfl") == job


def test_the_shipped_jobs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_job(find_job("fedavg")).sites == ("kidney", "liver", "pancreas", "spleen")


def test_an_unknown_job_names_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'fedagv'.*condistfl.*fedavg"):
        find_job("fedagv")


def test_overrides_are_written_to_the_copy_only(job, tmp_path):
    before = contents(job)
    meta, server = changed(job, tmp_path / "copy", ["spleen", "liver"], rounds=2, local_steps=3, seed=4)
    assert contents(job) == before
    assert {key: server[key] for key in ("num_rounds", "local_steps", "seed", "min_clients", "preset")} == {
        "num_rounds": 2,
        "local_steps": 3,
        "seed": 4,
        "min_clients": 2,
        "preset": "phantom",
    }
    assert meta["min_clients"] == 2
    assert meta["deploy_map"] == {"app": ["server", "liver", "spleen"]}
    same = set(contents(tmp_path / "copy")) - {"meta.json", "app/config/config_fed_server.json"}
    assert len(same) >= 2
    assert all(contents(tmp_path / "copy")[name] == before[name] for name in same)


def test_what_is_not_an_option_stays(job, tmp_path):
    _, server = changed(job, tmp_path / "copy", rounds=2)
    before = json.loads((job / "app/config/config_fed_server.json").read_text())
    assert server == {**before, "num_rounds": 2}


def test_the_overrides_reach_the_plan_that_every_site_gets(job, tmp_path):
    values = values_to_change(preset="abdomen", rounds=7, local_steps=None, seed=5)
    copy = write_job(with_overrides(read_job(job), values, ["liver"]), tmp_path / "copy")
    plan, faults = check_job(copy, tmp_path / "build")
    assert faults == []
    assert (plan.preset, plan.num_rounds, plan.seed) == ("abdomen", 7, 5)
    assert plan.local_steps == PRESETS["abdomen"].local_steps


def server_of(name: str, **options) -> dict:
    """The server's configuration of a shipped job with these options."""
    values = values_to_change(**{**NOTHING, **options})
    return with_overrides(read_job(find_job(name)), values, None).server


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_brings_the_length_it_was_sized_for(name):
    preset, own = PRESETS[name], read_job(find_job("fedavg")).server
    lengths = {"num_rounds": preset.num_rounds, "local_steps": preset.local_steps}
    assert server_of("fedavg", preset=name) == {**own, "preset": name, **lengths}
    given = {"preset": name, "rounds": 3, "local_steps": 4, "seed": 0}
    assert server_of("fedavg", **given) == {**own, "preset": name, "num_rounds": 3, "local_steps": 4, "seed": 0}


@pytest.mark.parametrize("job", ["psmos", "psmos_adapt", "psmos_standalone"])
def test_the_papers_preset_brings_its_phases_where_the_job_has_them(job):
    own, server = read_job(find_job(job)).server, server_of(job, preset="psmos")
    phases = {"pretrain_rounds": 600, "validate_every": 50}
    brought = {"num_rounds": 2600, "local_steps": 50, **{name: n for name, n in phases.items() if name in own}}
    assert server == {**own, "preset": "psmos", **brought}
    assert server_of(job, preset="psmos", others={"validate_every": 9})["validate_every"] == 9


def test_a_preset_without_pretraining_ends_that_phase():
    server = server_of("psmos", preset="abdomen")
    assert (server["pretrain_rounds"], server["validate_every"]) == (0, 1)


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("psmos_central", "--rounds, --local-steps, --set pretrain_rounds=VALUE"),
        ("psmos_pretrain", "--rounds, --local-steps"),
    ],
)
def test_a_job_with_lengths_of_its_own_takes_another_preset_with_lengths_only(job, options):
    with pytest.raises(ConfigError, match=rf"--preset.*{job} has other lengths") as caught:
        server_of(job, preset="psmos")
    assert caught.value.remedy == f"Give {options} as well."
    own = read_job(find_job(job)).server
    others = {"pretrain_rounds": 120} if "pretrain_rounds" in own else {}
    server = server_of(job, preset="psmos", rounds=500, local_steps=250, others=others)
    assert server == {**own, "preset": "psmos", "num_rounds": 500, "local_steps": 250, **others}


def test_its_own_preset_leaves_a_jobs_lengths_alone():
    assert server_of("psmos_central", preset="phantom_psmos") == read_job(find_job("psmos_central")).server


def test_a_preset_brings_its_fine_tuning_where_the_job_has_it():
    values = values_to_change(**{**NOTHING, "preset": "segviz"})
    tuned = with_overrides(read_job(find_job("segviz_fedbn_ft")), values, None)
    assert tuned.server["finetune_steps"] == PRESETS["segviz"].finetune_steps > 0
    assert "finetune_steps" not in with_overrides(read_job(find_job("segviz_fedbn")), values, None).server
    short = values_to_change(**{**NOTHING, "preset": "segviz"}, finetune_steps=3)
    assert with_overrides(read_job(find_job("segviz_fedbn_ft")), short, None).server["finetune_steps"] == 3
    with pytest.raises(ConfigError, match="finetune_steps"):
        with_overrides(read_job(find_job("segviz_fedbn")), short, None)


def test_no_option_changes_no_value():
    assert values_to_change(**NOTHING) == {}


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"--preset.*'abdomn'.*phantom.*abdomen"):
        values_to_change(**{**NOTHING, "preset": "abdomn"})


@pytest.mark.parametrize("how", ["missing", "unused"])
def test_an_option_that_would_change_nothing_is_refused(job, edit, how):
    if how == "missing":
        edit("config_fed_server.json", lambda c: c.pop("seed"))
    else:
        edit("config_fed_server.json", lambda c: c["components"][0]["args"].update(seed=1))
    with pytest.raises(ConfigError, match=r"config_fed_server\.json: seed"):
        with_overrides(read_job(job), {"seed": 3}, None)


# --- sites ------------------------------------------------------------------------------------------


def test_a_new_site_joins_the_app_of_the_others(job, tmp_path):
    meta, server = changed(job, tmp_path / "copy", ["hospital-1", "liver"])
    assert set(meta["deploy_map"]["app"]) == {"server", "liver", "hospital-1"}
    assert meta["deploy_map"]["app"][0] == "server"
    assert server["min_clients"] == meta["min_clients"] == 2


def test_requirements_of_sites_that_take_no_part_are_dropped(job, edit, tmp_path):
    more = {"mandatory_clients": ["liver", "kidney"], "resource_spec": {"liver": {"gpu": 1}, "kidney": {"gpu": 2}}}
    edit("meta.json", lambda c: c.update(more))
    meta, _ = changed(job, tmp_path / "copy", ["liver", "spleen"])
    assert meta["mandatory_clients"] == ["liver"]
    assert meta["resource_spec"] == {"liver": {"gpu": 1}}


def test_all_sites_of_flare_need_names(job, edit, tmp_path):
    edit("meta.json", lambda c: c.update(deploy_map={"app": ["@ALL"]}))
    with pytest.raises(ConfigError, match="--sites a,b,c"):
        changed(job, tmp_path / "copy")
    meta, _ = changed(job, tmp_path / "copy", ["liver", "spleen"])
    assert meta["deploy_map"] == {"app": ["server", "liver", "spleen"]}


def several_apps(job: Path, edit) -> None:
    for app in ("kidney_app", "server_app"):
        shutil.copytree(job / "app", job / app)
    apps = {"server_app": ["server"], "app": ["liver", "spleen"], "kidney_app": ["kidney"]}
    edit("meta.json", lambda c: c.update(deploy_map=apps))


def test_with_several_apps_sites_can_be_left_out_but_not_invented(job, edit, tmp_path):
    several_apps(job, edit)
    meta, _ = changed(job, tmp_path / "copy", ["liver"])
    assert meta["deploy_map"] == {"server_app": ["server"], "app": ["liver"]}
    with pytest.raises(ConfigError, match=r"'hospital-1'.*deploy_map"):
        changed(job, tmp_path / "other", ["liver", "hospital-1"])


@pytest.mark.parametrize(
    "sites",
    [[], [""], ["liver", ""], ["liver", "liver"], ["server"], ["external"], ["a b"], ["../x"], ["@ALL"], ["-x"]],
)
def test_names_that_cannot_be_sites_are_refused(job, sites):
    with pytest.raises(ConfigError, match="--sites: sites"):
        with_overrides(read_job(job), {}, sites)


def test_flares_signature_of_another_run_is_not_copied(job, tmp_path):
    (job / ".__nvfl_sig.json").write_text("{}")
    (job / "app/custom/__pycache__").mkdir()
    changed(job, tmp_path / "copy")
    assert not [name for name in contents(tmp_path / "copy") if "nvfl" in name or "pycache" in name]
    assert not (tmp_path / "copy/app/custom/__pycache__").exists()


# --- folders that are no jobs -------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config_fed_server.json", "config_fed_client.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", b"\xff\xfe"])
def test_a_configuration_that_cannot_be_read_is_named(job, file, content):
    path = job / "app/config" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=file):
        read_job(job)


@pytest.mark.parametrize("deploy_map", [None, {}, [], {"app": "server"}, {"app": [1]}, {"app": ["liver"]}])
def test_a_deploy_map_without_a_server_is_refused(job, edit, deploy_map):
    edit("meta.json", lambda c: c.update(deploy_map=deploy_map))
    with pytest.raises(ConfigError, match=r"meta.json: deploy_map"):
        read_job(job)


def test_a_job_without_sites_is_refused(job, edit):
    edit("meta.json", lambda c: c.update(deploy_map={"app": ["server"]}))
    with pytest.raises(ConfigError, match="sites by name"):
        with_overrides(read_job(job), {}, None)


def test_central_training_takes_no_other_sites(tmp_path):
    """Without its pool it would silently be a federation."""
    central = read_job(find_job("central"))
    with pytest.raises(ConfigError, match="trains in one place"):
        with_overrides(central, {}, ["liver", "spleen"])
    assert with_overrides(central, {}, ["central"]).sites == ("central",)
