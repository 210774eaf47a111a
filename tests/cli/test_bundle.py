"""The bundle: what is submitted is checked, complete, and says which code it was made for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpartial import __version__
from fedpartial.cli.bundle import Options, write_bundle
from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import read_job
from fedpartial.cli.main import app
from fedpartial.errors import ConfigError
from fedpartial.flare.code_check import MANIFEST, check_manifest, read_manifest
from fedpartial.package_hash import hash_of, package_files, package_hash

JOBS = sorted(path.parent for path in (Path(__file__).parents[2] / "jobs").glob("*/meta.json"))
SERVER_CONFIG = "app/config/config_fed_server.json"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def own_contents(folder: Path) -> dict[str, bytes]:
    """Without what says when and how a bundle was made."""
    return {name: data for name, data in contents(folder).items() if not name.endswith(MANIFEST)}


def json_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def bundle(job: Path, tmp_path: Path) -> Callable[..., Path]:
    """``bundle("shipped", rounds=1)`` bundles the copy of jobs/condistfl and returns the bundle's folder."""

    def make(code: str = "installed", *, of: Path | None = None, out: str = "bundle", **options) -> Path:
        write_bundle(Options(job=str(of or job), out=tmp_path / out, code=code, **options))
        return tmp_path / out

    return make


@pytest.fixture
def call() -> Callable:
    def invoke(*arguments: object):
        return CliRunner().invoke(app, ["bundle", *map(str, arguments)], env={"COLUMNS": "100", "TERM": "dumb"})

    return invoke


# --- both kinds of code -------------------------------------------------------------------------------


def test_there_are_jobs_to_bundle():
    assert {job.name for job in JOBS} >= {"condistfl", "fedavg"}


@pytest.mark.parametrize("code", ["installed", "shipped"])
@pytest.mark.parametrize("source", JOBS, ids=lambda job: job.name)
def test_every_job_makes_a_bundle_that_flare_accepts(bundle, tmp_path, source, code):
    before = contents(source)
    made = bundle(code, of=source)
    assert contents(source) == before
    plan, faults = check_job(read_job(made), tmp_path / "build")
    assert faults == []
    assert plan.job == source.name == json_of(made / "meta.json")["name"]
    assert not [path for path in made.rglob("*") if path.is_symlink() or path.name == "__pycache__"]
    assert (made / "app" / "custom").exists() == (code == "shipped")
    assert json_of(made / SERVER_CONFIG) == json_of(source / SERVER_CONFIG)


def test_only_a_bundle_without_code_is_free_of_byoc_for_flare(bundle):
    from nvflare.apis.app_validation import AppValidationKey
    from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
    from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

    def byoc(folder: Path) -> bool:
        valid, _, meta = JobMetaValidator().validate(folder.name, zip_directory_to_bytes("", str(folder)))
        assert valid
        return meta.get(AppValidationKey.BYOC, False)

    assert byoc(bundle("installed", out="a")) is False
    assert byoc(bundle("shipped", out="b")) is True


@pytest.mark.parametrize("code", ["installed", "shipped"])
def test_the_manifest_names_the_running_code(bundle, code):
    made = bundle(code, rounds=3, sites=("liver", "spleen"))
    manifest = read_manifest(made / "app", "the server")
    assert manifest["package_hash"] == package_hash() == hash_of(manifest["files"])
    assert manifest["version"] == __version__
    assert manifest["files"] == package_files()
    assert manifest["options"] == {"job": "condistfl", "code": code, "rounds": 3, "sites": ["liver", "spleen"]}
    assert manifest["created"].endswith("+00:00")
    check_manifest(made / "app", "the server")


def test_no_path_of_this_machine_gets_into_a_bundle(bundle, tmp_path):
    made = bundle("installed")
    assert not [name for name, data in contents(made).items() if str(tmp_path).encode() in data]
    assert len(contents(made)) == 5


def test_the_shipped_package_is_the_running_one_file_by_file(bundle):
    custom = bundle("shipped") / "app" / "custom"
    assert package_files(custom / "fedpartial") == package_files()
    assert set(contents(custom / "fedpartial")) == set(package_files())


def test_the_shipped_package_can_be_imported_where_fedpartial_is_not_installed(bundle):
    """-S leaves out the .pth file of the editable installation; PYTHONPATH brings the third-party packages back."""
    custom = bundle("shipped") / "app" / "custom"
    code = (
        "import fedpartial, fedpartial.package_hash as p, fedpartial.errors, fedpartial.labels, fedpartial.cli.main;"
        "print(fedpartial.__file__, p.package_hash())"
    )
    path = os.pathsep.join([sysconfig.get_path("purelib"), str(custom)])
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(custom / "fedpartial" / "__init__.py"), package_hash()], done.stderr
    path = sysconfig.get_path("purelib")
    nothing = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert "No module named 'fedpartial'" in nothing.stderr, "the test above would prove nothing"


def test_with_several_apps_every_one_that_runs_has_code_and_manifest(job, edit, bundle):
    for name in ("kidney_app", "server_app"):
        shutil.copytree(job / "app", job / name)
    apps = {"server_app": ["server"], "app": ["liver", "spleen"], "kidney_app": ["kidney"]}
    edit("meta.json", lambda c: c.update(deploy_map=apps, min_clients=3))
    made = bundle("shipped", sites=("liver", "spleen"))
    assert sorted(path.name for path in made.iterdir() if path.is_dir()) == ["app", "server_app"]
    for name in ("app", "server_app"):
        assert package_files(made / name / "custom" / "fedpartial") == package_files()
        assert read_manifest(made / name, "here") is not None


# --- bundles of bundles, own code, links --------------------------------------------------------------


@pytest.mark.parametrize("code", ["installed", "shipped"])
def test_a_bundle_of_a_bundle_is_the_same_bundle(bundle, code):
    first = bundle(code, rounds=2, min_sites=3)
    before = contents(first)
    again = bundle(code, of=first, out="again")
    assert own_contents(again) == own_contents(first)
    assert contents(first) == before


def test_the_code_can_be_taken_out_again_and_an_old_one_is_replaced(bundle):
    shipped = bundle("shipped")
    old = shipped / "app" / "custom" / "fedpartial"
    (old / "labels.py").write_text("old")
    (old / "gone_since.py").write_text("old")
    assert package_files(bundle("shipped", of=shipped, out="new") / "app/custom/fedpartial") == package_files()
    assert not (bundle("installed", of=shipped, out="without") / "app" / "custom").exists()


def test_code_of_the_job_itself_is_kept_or_refused_but_never_lost(job, edit, bundle, tmp_path):
    (job / "app/custom/my_objective.py").write_text(
        "from fedpartial.methods.fedavg import FedAvg\nclass Mine(FedAvg):\n    pass\n"
    )
    edit("config_fed_client.json", lambda c: c["components"][0]["args"].update(method={"path": "my_objective.Mine"}))
    with pytest.raises(ConfigError, match=r"--code: custom: got 'my_objective.py'"):
        bundle("installed")
    assert not (tmp_path / "bundle").exists()
    made = bundle("shipped")
    assert (made / "app/custom/my_objective.py").read_text() == (job / "app/custom/my_objective.py").read_text()
    assert not list(made.rglob("__pycache__"))


def test_links_become_files_and_flares_signature_stays_behind(job, bundle, tmp_path):
    target = tmp_path / "README.md"
    target.write_text("linked")
    (job / "README.md").unlink()
    (job / "README.md").symlink_to(target)
    (job / ".__nvfl_sig.json").write_text("{}")
    made = bundle("installed")
    assert (made / "README.md").read_text() == "linked"
    assert not (made / "README.md").is_symlink()
    assert not (made / ".__nvfl_sig.json").exists()


# --- options ------------------------------------------------------------------------------------------


def test_options_land_in_the_json(bundle):
    made = bundle(rounds=3, local_steps=4, seed=5, sites=("liver", "north"), min_sites=1)
    meta, server = json_of(made / "meta.json"), json_of(made / SERVER_CONFIG)
    assert {key: server[key] for key in ("num_rounds", "local_steps", "seed", "min_clients", "preset")} == {
        "num_rounds": 3,
        "local_steps": 4,
        "seed": 5,
        "min_clients": 1,
        "preset": "phantom",
    }
    assert meta["min_clients"] == 1
    assert meta["deploy_map"] == {"app": ["server", "liver", "north"]}


def test_a_preset_brings_its_length(bundle):
    from fedpartial.presets import get_preset

    server = json_of(bundle(preset="abdomen") / SERVER_CONFIG)
    abdomen = get_preset("abdomen")
    assert (server["preset"], server["num_rounds"], server["local_steps"]) == (
        "abdomen",
        abdomen.num_rounds,
        abdomen.local_steps,
    )


def test_without_min_sites_all_of_the_named_sites_are_needed(bundle):
    made = bundle(sites=("liver", "spleen"))
    assert json_of(made / "meta.json")["min_clients"] == json_of(made / SERVER_CONFIG)["min_clients"] == 2


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "JOB: folder"),
        (["{job}", "--preset", "x"], "--preset"),
        (["{job}", "--sites", "a,,b"], "--sites"),
        (["{job}", "--min-sites", "5"], "1 to 4"),
        (["{job}", "--sites", "liver,spleen", "--min-sites", "3"], "1 to 2"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2_and_nothing_is_written(call, job, tmp_path, arguments, said):
    given = [argument.format(job=job) for argument in arguments]
    before = sorted(tmp_path.iterdir())
    result = call(*given, "-o", tmp_path / "new" / "bundle")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_every_fault_of_the_job_is_said_by_its_own_path_and_nothing_is_written(call, job, edit, tmp_path):
    edit("config_fed_server.json", lambda c: c["components"][0]["args"].update(colour="red"))
    edit("config_fed_client.json", lambda c: c["components"][0]["args"]["method"]["args"].update(temprature=1))
    result = call(job, "-o", tmp_path / "new" / "bundle")
    assert result.exit_code == 2
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        str(job / SERVER_CONFIG),
        str(job / "app/config/config_fed_client.json"),
    ]
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(call, job, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    result = call(job, "-o", out)
    assert result.exit_code == 2
    assert "a new or an empty folder" in result.stderr
    assert contents(out) == {"notes.txt": b"mine"}


def test_a_bundle_inside_its_own_job_is_refused(call, job):
    before = contents(job)
    result = call(job, "-o", job / "bundle")
    assert result.exit_code == 2
    assert "outside the job" in result.stderr
    assert contents(job) == before
    assert not (job / "bundle").exists()


def test_a_place_that_cannot_be_written_is_an_error_of_the_option(call, job, tmp_path):
    (tmp_path / "file").write_text("x")
    result = call(job, "-o", tmp_path / "file" / "bundle")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --out: folder: ")
    assert "Traceback" not in result.output


# --- the command --------------------------------------------------------------------------------------


def test_the_summary_says_what_will_run_and_what_to_type_next(call, job, tmp_path):
    out = tmp_path / "my bundle"
    out.mkdir()
    result = call(job, "-o", out, "--code", "shipped", "--rounds", "2", "--min-sites", "3")
    assert result.exit_code == 0, result.stderr
    for text in ("2 round(s)", "(3 of 4 needed)", "shipped", "BYOC", package_hash()[:12], __version__):
        assert text in result.stdout
    assert f"nvflare job submit -j '{out}'" in result.stdout
    assert f"submit_job '{out}'" in result.stdout
    assert (out / "app/custom/fedpartial/__init__.py").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs", "my bundle"]


def test_installed_is_the_default(call, job, tmp_path):
    result = call(job, "-o", tmp_path / "bundle")
    assert result.exit_code == 0
    assert "no code" in result.stdout
    assert not (tmp_path / "bundle" / "app" / "custom").exists()


@pytest.mark.parametrize("wrong", [["--code", "both"], ["--min-sites", "0"], ["--rounds", "-1"]])
def test_a_wrong_value_is_a_usage_error(call, job, tmp_path, wrong):
    result = call(job, "-o", tmp_path / "bundle", *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output
    assert not (tmp_path / "bundle").exists()
