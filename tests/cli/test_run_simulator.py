"""``fedpartial run`` over FLARE's real simulator: what a good run writes, and how each kind of trouble ends."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_hospitals import SITES, write_data

from fedpartial.evaluation.report import read_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

COMMAND = [sys.executable, "-c", "from fedpartial.cli.main import app; app()", "run"]


def listen_to_ctrl_c() -> None:
    """As in a terminal, also where the tests run in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(job: Path, hospitals: Path, tmp_path: Path):
    """``start("--rounds", "2")`` starts the command on the two hospitals; what still runs at the end is ended."""
    started: list[subprocess.Popen] = []

    def run(*options: str) -> subprocess.Popen:
        given = [str(job), "--sites", ",".join(SITES), "--local-steps", "1", "--out", str(tmp_path / "out")]
        command = [*COMMAND, *given, "--site-config", str(hospitals), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=listen_to_ctrl_c)
        )
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def finish(start, tmp_path: Path):
    """Run to the end: exit code, standard output, error output; no process of the run is left."""

    def run(*options: str) -> tuple[int, str, str]:
        process = start(*options)
        out, errors = process.communicate(timeout=380)
        assert flare_processes(tmp_path) == {}
        assert "Traceback" not in out + errors
        return process.returncode, out, errors

    return run


def flare_processes(folder: Path) -> dict[int, str]:
    """Processes whose command line names the run's workspace, found without the code under test."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"{folder}/out/workspace" in command:
                found[int(entry.name)] = command
    return found


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"no {text!r} in {path}"
        time.sleep(0.2)


def progress(folder: Path) -> Path:
    return folder / "out/workspace/server/simulate_job/app_server/progress.jsonl"


def test_a_run_of_two_sites_writes_what_it_promises(finish, hospitals, tmp_path):
    write_data(tmp_path / "data/external", seed=7)
    external = {"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": "../data/external", "cache_dir": "../cache"}
    (hospitals / "external.json").write_text(json.dumps(external))
    code, out, errors = finish("--rounds", "2", "--seed", "3")
    assert (code, errors) == (0, "")
    folder = tmp_path / "out"

    report = read_report(folder / "report.json")
    assert (report["job"], report["preset"], report["seed"]) == ("condistfl", "phantom", 3)
    assert [entry["round"] for entry in report["rounds"]] == [1, 2]
    assert all(set(entry["sites"]) == set(SITES) for entry in report["rounds"])
    assert {site: set(classes) for site, classes in report["sites"].items()} == {
        "liver": {"liver", "liver_tumor"},
        "spleen": {"spleen"},
    }
    assert {site: len(cases) for site, cases in report["cases"].items()} == {
        "liver": 1,
        "spleen": 1,
        "external": 1,
        "external_organs": 1,
    }
    prediction = nibabel.load(folder / "predictions" / "external_01.nii.gz")
    assert prediction.shape == nibabel.load(next((tmp_path / "data/external").rglob("*.nii.gz"))).shape

    model = load_file(folder / "global_model.safetensors")
    assert len(model) > 20
    assert all(np.isfinite(tensor).all() for tensor in model.values())
    assert set(load_file(folder / "best_global_model.safetensors")) == set(model)
    with (folder / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["round"], row["site"]) for row in rows} >= {(r, s) for r in "12" for s in SITES}
    assert {path.name for path in (folder / "logs").iterdir()} == {"server.txt", "liver.txt", "spleen.txt"}
    assert {path.name for path in (folder / "tb_events").iterdir()} == set(SITES)
    assert "condistfl" in (folder / "report.html").read_text()
    assert not (folder / "workspace").exists()

    for number in (1, 2):
        for site in SITES:
            assert re.search(rf"^round {number}/2  {site} +loss +\d\.\d+  Dice before .* s  about ", out, re.MULTILINE)
    assert "preparing data at liver, spleen" in out
    assert out.index("final evaluation") < out.index("external set") < out.index("Dice of condistfl")
    assert f"report: {folder / 'report.html'}" in out
    assert all(character.isprintable() or character == "\n" for character in out)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def add_unnamed_value(path: Path) -> None:
    image = nibabel.load(path)
    label = np.asanyarray(image.dataobj).copy()
    label[0, 0, 0] = 7
    nibabel.save(nibabel.Nifti1Image(label, image.affine), path)


@pytest.mark.parametrize(
    ("damage", "file", "said"),
    [(truncate, "training1.nii.gz", "damaged"), (add_unnamed_value, "validation0_label.nii.gz", "got 7; expected")],
)
def test_damaged_data_ends_the_run_with_the_sites_own_words(finish, tmp_path, damage, file, said):
    path = tmp_path / "data/spleen" / file
    damage(path)
    if damage is truncate:
        with gzip.open(path) as stream, pytest.raises(EOFError):
            stream.read()
    code, _, errors = finish("--rounds", "1")
    assert code == 1
    assert errors.count("error: ") == 1
    assert "error: site spleen: 1 fault(s) in the data set" in errors
    assert "/data/spleen/" in errors
    assert file in errors
    assert said in errors
    assert "simulator.log" in errors


@pytest.mark.parametrize("trouble", ["datalist", "argument", "label name"])
def test_what_can_be_found_offline_starts_nothing(finish, hospitals, edit, tmp_path, trouble):
    if trouble == "datalist":
        (tmp_path / "data/liver/datalist.json").unlink()
        said = ["site liver: ", "datalist.json", "existing Decathlon datalist"]
    elif trouble == "argument":
        edit("config_fed_client.json", lambda c: c["components"][0]["args"]["method"]["args"].update(temprature=1))
        said = ["config_fed_client.json: component 'learner'", "'temprature'", "temperature, weight_start"]
    else:
        given = json.loads((hospitals / "liver.json").read_text())
        (hospitals / "liver.json").write_text(json.dumps({**given, "labels": {"1": "lever"}}))
        said = ["site liver: ", "liver.json: labels", "'lever'"]
    code, out, errors = finish("--rounds", "1")
    assert (code, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert all(text in errors for text in said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_site_process_that_is_killed_ends_the_run_in_bounded_time(start, tmp_path, threads):
    process = start("--rounds", "500", "--threads", threads)
    wait_for(progress(tmp_path), '"round": 2')
    while not (victims := [pid for pid, c in flare_processes(tmp_path).items() if "--client liver" in c]):
        time.sleep(0.05)
    killed = time.monotonic()
    os.kill(victims[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - killed < 45
    assert "process ended without a word" in errors
    if threads == "2":
        assert "error: site liver: " in errors
    assert flare_processes(tmp_path) == {}


def test_ctrl_c_keeps_the_model_of_the_rounds_that_are_done(start, tmp_path):
    process = start("--rounds", "500")
    wait_for(progress(tmp_path), '"event": "round", ')
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert flare_processes(tmp_path) == {}
    assert len(load_file(tmp_path / "out/global_model.safetensors")) > 20
    assert (tmp_path / "out/workspace").is_dir()
