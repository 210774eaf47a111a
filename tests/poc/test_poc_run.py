"""poc/run.sh: a complete rehearsal, every way of ending it early, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_consortium
import tiny_stages
from rehearsal import ROOT, RUN, Rehearsal, site_files, user_environment
from tiny_work import bundle

from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.overrides import with_overrides
from fedpartial.evaluation.report import read_report
from fedpartial.networks.assembled import is_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.universal import universal_classes
from fedpartial.presets import get_preset
from fedpartial.server.model_store import ModelStore
from fedpartial.training.model_file import load_model
from fedpartial.training.reported import ADAPTATION_WAYS

SEGVIZ = (
    "segviz_fedavg",
    "segviz_fedbn",
    "segviz_fedavg_ft",
    "segviz_fedbn_ft",
    "segviz_standalone",
    "segviz_conventional",
    "segviz_central",
)
PSMOS = {
    "psmos": ("full", "liver"),
    "psmos_adapt": ("full", "liver"),
    "psmos_pretrain": ("full",),
    "psmos_central": ("psmos_central",),
    "psmos_standalone": ("full", "liver"),
    "fedmenu": ("full", "liver"),
}
"""FL-PSMOS and Fed-MENU: sites by job."""
LONG = {"rounds": 3, "local_steps": 2000}
STEPS = ["prepare", "start", "submit", "wait", "download", "report", "stop", "clean"]


def refused(folder: Path, *arguments: str) -> str:
    """run.sh with arguments that it refuses at once; its message."""
    (folder / "home").mkdir()
    done = subprocess.run(
        ["bash", str(RUN), *arguments],
        cwd=folder,
        env=user_environment(folder / "home"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done
    assert done.stderr.count("error: ") == 1
    assert list((folder / "home").iterdir()) == []
    return done.stderr


def rehearsal_of(folder: Path, *arguments: str, **options: int) -> Rehearsal:
    """run.sh with a bundle for two tiny hospitals."""
    sites = folder / "sites" if (folder / "sites").exists() else site_files(folder / "sites")
    return Rehearsal(folder, str(bundle(folder / "tiny", **options)), "--site-config", str(sites), *arguments)


# at once


def test_help_names_every_option_and_exit_code():
    done = subprocess.run(["bash", str(RUN), "--help"], capture_output=True, text=True, check=True, timeout=10)
    for option in ("--port", "--workspace", "--out", "--site-config", "--timeout", "--console", "--keep"):
        assert option in done.stdout
    assert "130 Ctrl-C" in done.stdout
    assert "policy byoc (no allow list" in done.stdout
    assert done.stderr == ""


def test_the_shell_can_parse_it():
    subprocess.run(["bash", "-n", str(RUN)], check=True, timeout=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which JOB"),
        (["one", "two"], "more than one JOB"),
        (["condistfl", "--fast"], "unknown option --fast"),
        (["condistfl", "--port"], "--port needs a value"),
        (["condistfl", "--timeout", "soon"], "--timeout: got soon"),
    ],
)
def test_a_wrong_command_line_is_one_message(tmp_path, arguments, message):
    assert message in refused(tmp_path, *arguments)


@pytest.mark.parametrize("out", ["made", "made/results", "./other/../made/results"])
def test_results_would_be_lost_with_the_workspace(tmp_path, out):
    assert "lies inside the workspace" in refused(tmp_path, "condistfl", "--workspace", "made", "--out", out)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("port", ["many", "70000", "-1"])
def test_a_wrong_port_is_one_message(tmp_path, port):
    said = refused(tmp_path, str(ROOT / "jobs" / "condistfl"), "--port", port, "--workspace", str(tmp_path / "made"))
    assert f"got '{port}'" in said
    assert not (tmp_path / "made").exists()


def test_an_unknown_job_is_one_message_and_leaves_nothing(tmp_path):
    said = refused(tmp_path, "nosuchjob", "--workspace", str(tmp_path / "made"), "--out", str(tmp_path / "out"))
    assert "got 'nosuchjob'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "a port that is free" in refused(tmp_path, str(ROOT / "jobs" / "condistfl"), "--port", port)


@pytest.mark.parametrize("option", ["--workspace", "--out"])
def test_an_existing_folder_is_refused_and_kept(tmp_path, option):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("kept", encoding="utf-8")
    said = refused(tmp_path, str(ROOT / "jobs" / "condistfl"), option, str(tmp_path / "there"))
    assert f"{option}: {tmp_path / 'there'} exists" in said
    assert (tmp_path / "there" / "mine").read_text(encoding="utf-8") == "kept"


# with FLARE's processes


@pytest.mark.poc
@pytest.mark.timeout(400)
def test_a_rehearsal_downloads_report_and_model_and_leaves_nothing(tmp_path):
    job = with_overrides(read_job(find_job("condistfl")), {"num_rounds": 2, "local_steps": 2}, ("liver", "spleen"))
    copy = write_job(job, tmp_path / "tiny").folder
    sites = site_files(tmp_path / "sites")
    assert (copy / "app" / "custom").is_dir(), "FLARE takes it for a job that brings its own code, as jobs/* are"
    with Rehearsal(tmp_path, str(copy), "--site-config", str(sites)) as rehearsal:
        assert rehearsal.wait(390) == 0, rehearsal.output
        assert rehearsal.processes() == {}
        app = rehearsal.result()
    report = read_report(app / "report.json")
    assert set(report["sites"]) == {"liver", "spleen"}
    assert len(report["rounds"]) == 2
    weights, info = load_model(app / "global_model.safetensors")
    assert (info.round_number, info.plan["num_rounds"], info.plan["local_steps"]) == (2, 2, 2)
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    assert list(rehearsal.seconds()) == STEPS
    assert "round 2/2  done" in rehearsal.output
    assert rehearsal.output.splitlines()[-1].endswith(str(app / "report.html"))
    assert not rehearsal.workspace.exists()
    assert list(rehearsal.home.iterdir()) == [], "the user's own HOME was written to"


@pytest.mark.poc
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SEGVIZ)
def test_a_job_of_segviz_leaves_its_model(tmp_path, name):
    sites, folder = ("liver", "spleen"), site_files(tmp_path / "sites")
    if name == "segviz_central":
        sites = ("central",)
        (folder / "central.json").write_text('{"pool": ["liver", "spleen"]}', encoding="utf-8")
    values = {"num_rounds": 1, "local_steps": 2} | ({"finetune_steps": 2} if name.endswith("_ft") else {})
    copy = write_job(with_overrides(read_job(find_job(name)), values, sites), tmp_path / "tiny").folder
    with Rehearsal(tmp_path, str(copy), "--site-config", str(folder)) as rehearsal:
        assert rehearsal.wait(390) == 0, rehearsal.output
        assert rehearsal.processes() == {}
        app = rehearsal.result()
    report, (weights, _) = read_report(app / "report.json"), load_model(app / "global_model.safetensors")
    assert set(report["sites"]) == set(sites)
    assert is_assembled(weights) == (name not in ("segviz_conventional", "segviz_central"))
    assert report["exchange"]["rounds_tensors_changed"] == [
        None if "standalone" in name else len(report["exchange"]["shared_names"])
    ]
    assert all(np.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.poc
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "sites"), PSMOS.items(), ids=PSMOS)
def test_a_job_of_psmos_leaves_its_model_under_the_reviewed_policy(tmp_path, name, sites):
    files = tiny_consortium.site_files(tmp_path / "sites", ("full", "liver"))
    tiny_consortium.pool_file(files, "psmos_central", ("full", "liver"))
    config = read_job(find_job(name)).server
    values = {"pretrain_rounds": 1, "adapt_steps": 2}
    job = bundle(
        tmp_path / name,
        job=name,
        rounds=2,
        local_steps=2,
        sites=sites,
        values={key: value for key, value in values.items() if key in config},
    )
    with Rehearsal(tmp_path, str(job), "--site-config", str(files), "--keep") as rehearsal:
        assert rehearsal.wait(390) == 0, rehearsal.output
        assert rehearsal.processes() == {}
        app = rehearsal.result()
    assert "policy reviewed" in rehearsal.output
    report = read_report(app / "report.json")
    assert set(report["sites"]) == set(sites)
    assert [set(entry["sites"]) for entry in report["rounds"]] == [
        {sites[0]} if "pretrain_rounds" in config else set(sites),
        set(sites),
    ]
    _check_models(name, sites, app)
    _check_adaptation(report, sites if name == "psmos_adapt" else (), rehearsal)


def _check_models(name: str, sites: tuple[str, ...], app: Path) -> None:
    """Whole and finite, and trained: the filters of the policy let every tensor pass."""
    files = [f"local_{site}" for site in sites] if name == "psmos_standalone" else ["global_model"]
    preset = read_job(find_job(name)).server["preset"]
    before = canonical_state(build_network(get_preset(preset), seed=0))
    for file in files:
        weights, info = load_model(app / f"{file}.safetensors")
        assert info.round_number == 2
        assert weights.keys() == before.keys()
        assert all(np.isfinite(tensor).all() for tensor in weights.values())
        same = {key for key, tensor in weights.items() if np.array_equal(tensor, before[key].numpy())}
        assert all(key.startswith("decoder.side_outputs.") for key in same), "all but what MENU-Net has for its size"


def _check_adaptation(report: dict, sites: tuple[str, ...], rehearsal: Rehearsal) -> None:
    """Every one of these sites has its own models, and nobody else has them."""
    assert {(way, site) for way, by_site in report["adapted_sites"].items() for site in by_site} == {
        (way, site) for way in ADAPTATION_WAYS for site in sites
    }
    kept = {(path.parent.name, path.name) for path in rehearsal.workspace.rglob("adapted_*.safetensors")}
    assert kept == {(f"app_{site}", f"adapted_{way}.safetensors") for way in ADAPTATION_WAYS for site in sites}
    assert not list(rehearsal.out.rglob("adapted_*.safetensors"))


@pytest.mark.poc
@pytest.mark.timeout(400)
def test_mmds_leaves_its_model_under_the_reviewed_policy_and_its_store_in_the_servers_kit(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path / "mine"))
    sites = ("kidney", "spleen")
    files = tiny_stages.site_files(tmp_path / "sites")
    job = bundle(tmp_path / "mmds", job="mmds", local_steps=2, sites=sites, values={"distil_steps": 2})
    with Rehearsal(tmp_path, str(job), "--site-config", str(files), "--keep") as rehearsal:
        assert rehearsal.wait(390) == 0, rehearsal.output
        assert rehearsal.processes() == {}
        app = rehearsal.result()
    assert "not used: liver.json" in rehearsal.output
    assert "not used: public.json" not in rehearsal.output
    weights, _ = load_model(app / "global_model.safetensors")
    assert set(universal_classes(weights)) == {"kidney", "kidney_tumor", "spleen"}
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    assert set(read_report(app / "report.json")["sites"]) == set(sites)
    (store,) = rehearsal.workspace.glob("poc/*/prod_00/localhost/store/federations/mmds")
    assert ModelStore(store).latest_global().teachers == {"kidney": 1, "spleen": 1}
    kept = rehearsal.workspace.rglob("local_model.safetensors")
    assert {path.relative_to(rehearsal.workspace).parts[:-3] for path in kept} == {("home", "fedpartial", "sites")}
    assert not (tmp_path / "mine").exists(), "the models of the user's own sites are left alone"


@pytest.mark.poc
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_rehearsal_leaves_no_process(tmp_path, number):
    with rehearsal_of(tmp_path, **LONG) as rehearsal:
        rehearsal.wait_until(rehearsal.training, 180)
        rehearsal.process.send_signal(number)
        assert rehearsal.wait(60) == 128 + number, rehearsal.output
        assert rehearsal.processes() == {}
    assert not rehearsal.workspace.exists()
    assert (rehearsal.out / "logs" / "liver-log.txt").stat().st_size > 0


@pytest.mark.poc
@pytest.mark.timeout(900)
def test_an_interrupt_while_the_federation_starts_leaves_no_process(tmp_path):
    with rehearsal_of(tmp_path) as rehearsal:
        rehearsal.wait_until(lambda: any("server_train" in text for text in rehearsal.processes().values()), 60)
        rehearsal.process.send_signal(signal.SIGINT)
        assert rehearsal.wait(60) == 130, rehearsal.output
        assert rehearsal.processes() == {}
    assert not rehearsal.workspace.exists()


@pytest.mark.poc
@pytest.mark.timeout(900)
def test_a_failing_job_says_why_and_leaves_no_process(tmp_path):
    label = site_files(tmp_path / "sites") / "liver" / "case_data" / "case_training0_label.nii.gz"
    label.write_bytes(b"no label map")
    with rehearsal_of(tmp_path) as rehearsal:
        assert rehearsal.wait(290) == 1, rehearsal.output
        assert rehearsal.processes() == {}
    shown = [line for line in rehearsal.output.splitlines() if line.startswith("site liver: ")]
    assert len(shown) == 1
    assert label.name in rehearsal.output, "the site's own words, in full on this machine"
    assert not rehearsal.workspace.exists()


@pytest.mark.poc
@pytest.mark.timeout(900)
def test_a_job_that_takes_too_long_is_aborted(tmp_path):
    with rehearsal_of(tmp_path, "--timeout", "20", **LONG) as rehearsal:
        assert rehearsal.wait(290) == 1, rehearsal.output
        assert rehearsal.processes() == {}
    assert "nvflare job abort" in rehearsal.output


@pytest.mark.poc
@pytest.mark.timeout(120)
def test_a_wrong_site_file_is_refused_before_anything_starts(tmp_path):
    sites = site_files(tmp_path / "sites")
    (sites / "liver.json").write_text(json.dumps({"labels": {"1": "liver"}, "data_root": "gone"}), encoding="utf-8")
    with rehearsal_of(tmp_path) as rehearsal:
        assert rehearsal.wait(100) == 2, rehearsal.output
        assert rehearsal.processes() == {}
    assert "data_root" in rehearsal.output
    assert "poc prepare" not in rehearsal.output
