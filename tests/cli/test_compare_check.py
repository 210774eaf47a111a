"""All runs of a comparison are checked before one of them runs, and finished ones are known again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_hospitals import SITES

from fedpartial.cli.compare_check import check_runs, clear, differences, seconds_of
from fedpartial.cli.compare_plan import ComparePlan, PlannedMethod
from fedpartial.cli.prepare import Options, check, make_folder
from fedpartial.cli.refused import Refused

CLIENT = "app/config/config_fed_client.json"


@pytest.fixture
def checked(tmp_path, job):
    """``checked(method, ..., seeds=..., **options)``: the runs of a plan of methods of the copied job."""

    def check_plan(*methods: dict, seeds=(0,), preset=None, **options):
        rows = tuple(PlannedMethod(**{"job": str(job), **method}) for method in methods or ({"name": "a"},))
        plan = ComparePlan(title="T", seeds=seeds, preset=preset, methods=rows)
        temporary = tmp_path / f"temporary{len(list(tmp_path.glob('temporary*')))}"
        temporary.mkdir()
        return check_runs(plan, Options(**{"job": "", "sites": SITES, **options}), tmp_path / "out", temporary)

    return check_plan


@pytest.fixture
def finish(report_text):
    """``finish(run)`` leaves what a finished run leaves."""

    def leave(run) -> None:
        prepared = make_folder(run.checked)
        shutil.rmtree(prepared.workspace)
        (prepared.out / "report.json").write_text(report_text)
        (prepared.out / "global_model.safetensors").write_bytes(b"weights")

    return leave


def refused(call, *arguments, **options) -> list[str]:
    with pytest.raises(Refused) as raised:
        call(*arguments, **options)
    return [str(fault) for fault in raised.value.faults]


def test_runs_are_ordered_by_seed_and_have_folders_of_their_own(checked, tmp_path):
    runs = checked({"name": "a"}, {"name": "b, 2"}, seeds=(1, 0))
    assert [str(run) for run in runs] == ["a, seed 1", "b, 2, seed 1", "a, seed 0", "b, 2, seed 0"]
    folders = [run.checked.out.relative_to(tmp_path / "out").as_posix() for run in runs]
    assert folders == ["runs/a/seed1", "runs/b-2/seed1", "runs/a/seed0", "runs/b-2/seed0"]
    assert [run.checked.plan.seed for run in runs] == [1, 1, 0, 0]
    assert not (tmp_path / "out").exists()


def test_a_runs_own_length_and_method_reach_its_copy_of_the_job_only(checked, job):
    before = (job / CLIENT).read_text()
    plain, other = checked({"name": "a"}, {"name": "b", "rounds": 2, "local_steps": 3, "method": {"temperature": 2.0}})
    assert (other.checked.plan.num_rounds, other.checked.plan.local_steps, other.work) == (2, 3, 6)
    arguments = json.loads((other.checked.job.folder / CLIENT).read_text())["components"][0]["args"]["method"]["args"]
    own = json.loads(before)["components"][0]["args"]["method"]["args"]
    assert arguments == {**own, "temperature": 2.0}
    assert own["temperature"] != 2.0
    assert json.loads((plain.checked.job.folder / CLIENT).read_text()) == json.loads(before)
    assert (job / CLIENT).read_text() == before


def test_a_runs_own_sites_come_before_those_of_all_runs(checked):
    both, one = checked({"name": "a"}, {"name": "b", "sites": ["spleen"]})
    assert (set(both.checked.job.sites), one.checked.job.sites) == (set(SITES), ("spleen",))
    assert json.loads((one.checked.job.folder / "meta.json").read_text())["min_clients"] == 1


@pytest.mark.parametrize("sites", [["liver/../x"], ["external_heads"]])
def test_sites_that_cannot_be_are_refused_for_the_runs_that_name_them(checked, sites):
    (fault,) = refused(checked, {"name": "a"}, {"name": "b", "sites": sites})
    assert fault.startswith("b: --sites: sites: got")


def test_a_method_without_arguments_gets_some(checked, edit):
    edit("config_fed_client.json", lambda c: c["components"][0]["args"]["method"].pop("args"))
    (run,) = checked({"name": "a", "method": {"temperature": 3.0}})
    method = json.loads((run.checked.job.folder / CLIENT).read_text())["components"][0]["args"]["method"]
    assert method["args"] == {"temperature": 3.0}


def test_a_method_that_is_not_there_gets_no_arguments(checked, edit):
    edit("config_fed_client.json", lambda c: c["components"][0]["args"].pop("method"))
    found = refused(checked, {"name": "a", "method": {"temperature": 3.0}})
    assert any("got 'no method'" in fault for fault in found)


def test_everything_wrong_with_any_run_is_said_once_and_with_its_name(checked, job, hospitals, tmp_path):
    (hospitals / "liver.json").write_text("{")
    rows = {"name": "a"}, {"name": "b", "method": {"temprature": 1}}, {"name": "c", "job": "nowhere"}
    found = refused(checked, *rows, seeds=(0, 1), site_config=hospitals, threads=9)
    assert len(found) == 4
    assert found[0].startswith("a; b: --threads")
    assert found[1].startswith(f"a; b: site liver: {hospitals}/liver.json")
    assert found[2].startswith(f"b: {job}/{CLIENT}: component 'learner'")
    assert found[3].startswith("c: JOB: folder: got 'nowhere'")
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_all_methods_names_none(checked):
    (fault,) = refused(checked, {"name": "a"}, {"name": "b"}, preset="abdomn")
    assert fault.startswith("--preset")


def test_right_and_left_kidney_do_not_compare_with_kidneys(checked, tmp_path):
    (fault,) = refused(checked, {"name": "a"}, {"name": "b", "job": "fedmenu"}, {"name": "c"}, seeds=(0, 1))
    assert fault.startswith(
        "comparison: organs: got 'kidney, liver, pancreas, spleen (a, c); kidney_left, kidney_right,"
    )
    assert "(b)'; expected the same ones in all runs" in fault
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("one", "other"), [("condistfl", "condistfl_union"), ("psmos", "fedmenu")])
def test_runs_of_the_same_organs_compare_whatever_becomes_of_lesions(checked, one, other):
    values = {"pretrain_rounds": 0} if one == "psmos" else {}
    assert len(checked({"name": "a", "job": one, "values": values}, {"name": "b", "job": other})) == 2


# --- what a folder holds ---------------------------------------------------------------------------------


def test_a_finished_run_is_known_again(checked, finish):
    (run,) = checked()
    assert (run.report, run.seconds) == (None, None)
    finish(run)
    (again,) = checked()
    assert again.report["job"] == "condistfl"
    assert again.seconds == seconds_of(again.report)


def test_another_order_of_keys_or_another_readme_is_no_other_setting(checked, finish, job):
    (run,) = checked()
    finish(run)
    text = (job / CLIENT).read_text()
    (job / CLIENT).write_text(json.dumps(dict(reversed(json.loads(text).items()))))
    (job / "README.md").write_text("better words")
    assert checked()[0].report is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 3}, "num_rounds was 8 and is now 3"),
        ({"sites": ["liver"]}, 'meta.json: deploy_map.app[2] was "spleen" and is now not there'),
        ({"method": {"temperature": 2.0}}, "components[0].args.method.args.temperature was 0.5 and is now 2.0"),
    ],
)
def test_a_finished_run_with_other_settings_is_refused_by_name(checked, finish, change, said):
    (run,) = checked()
    finish(run)
    (fault,) = refused(checked, {"name": "a", **change})
    assert str(run.checked.out) in fault
    assert said in fault
    assert "Delete this folder" in fault
    assert "--out" in fault
    assert (run.checked.out / "report.json").exists()


def test_a_finished_run_with_other_site_files_is_refused(checked, finish, hospitals):
    (run,) = checked(site_config=hospitals)
    finish(run)
    assert checked(site_config=hospitals)[0].report is not None
    (fault,) = refused(checked)
    assert "liver.json" in fault


def test_a_finished_run_whose_report_cannot_be_read_is_not_thrown_away(checked, finish):
    (run,) = checked()
    finish(run)
    (run.checked.out / "report.json").write_text("{}")
    (fault,) = refused(checked)
    assert "report.json cannot be used" in fault


@pytest.mark.parametrize("left", ["report.json", "workspace"])
def test_an_unfinished_run_starts_again_in_an_empty_folder(checked, finish, left):
    (run,) = checked()
    finish(run)
    out = run.checked.out
    (out / "report.json").unlink() if left == "report.json" else (out / "workspace").mkdir()
    (again,) = checked()
    assert again.report is None
    clear(again)
    assert not out.exists()


def test_an_interrupted_deletion_never_looks_finished(checked, finish, monkeypatch):
    """Without its workspace, an interrupted run with a report would be taken for a finished one."""
    (run,) = checked()
    finish(run)
    out = run.checked.out
    (out / "workspace").mkdir()

    def remove_one_and_end(path: Path) -> None:
        remove(path)
        raise KeyboardInterrupt

    remove, in_folder = shutil.rmtree, Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(in_folder(folder), reverse=True))
    monkeypatch.setattr(shutil, "rmtree", remove_one_and_end)
    with pytest.raises(KeyboardInterrupt):
        clear(run)
    assert not (out / "workspace").exists(), "the first folder that went"
    (again,) = checked()
    assert again.report is None


def test_what_no_run_has_made_is_never_removed(checked, tmp_path):
    folder = tmp_path / "out/runs/a/seed0"
    folder.mkdir(parents=True)
    assert checked()[0].report is None, "an empty folder may be there"
    (folder / "precious.txt").write_text("mine")
    (fault,) = refused(checked)
    assert str(folder) in fault
    assert (folder / "precious.txt").exists()


def test_differences_name_file_and_place(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, value in ((old, {"a": [1, {"b": True}], "c": {}}), (new, {"a": [1, {"b": 1}], "d": None})):
        folder.mkdir()
        (folder / "x.json").write_text(json.dumps(value))
    (new / "code.py").write_text("pass")
    found = list(differences(old, new))
    assert found[1:] == [
        "x.json: a[1].b was true and is now 1",
        "x.json: c was {} and is now not there",
        "x.json: d was not there and is now null",
    ]
    assert found[0].startswith('code.py was not there and is now "sha256 ')
    assert list(differences(old, old)) == []
    assert list(differences(tmp_path / "nowhere", tmp_path / "nowhere either")) == []


# --- what run and compare share ------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (2, 2)])
def test_sites_take_turns_on_a_gpu(tmp_path, job, monkeypatch, threads, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    options = Options(job=str(job), sites=SITES, device="cuda", threads=threads, out=tmp_path / "out")
    found = check(options, tmp_path, lambda given, _: given.out)
    assert make_folder(found).threads == expected
    on_cpu = replace(found, options=replace(options, device="cpu"), out=tmp_path / "cpu")
    assert make_folder(on_cpu).threads == (threads or len(SITES))
