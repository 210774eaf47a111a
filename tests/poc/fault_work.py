"""What the tests of faults share: a federation of two hospitals that notices dead sites early, and its jobs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from real_federation import SERVER, Federation
from tiny_work import SITES, bundle, edit, hospitals
from typer.testing import CliRunner

from fedpartial.cli.main import app
from fedpartial.cli.policy import POLICIES
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.training.model_file import load_model

ROUNDS, STEPS = 2, 8
"""Long enough for a fault in the middle of a round."""

EARLY = {
    "NVFLARE_DEAD_CLIENT_GRACE_PERIOD": "12",
    "NVFLARE_DEAD_CLIENT_CHECK_LEAD_TIME": "2",
    "NVFLARE_SILENT_CLIENT_PERIOD": "15",
}
"""Seconds; the usual ones are 60, 30 and 45. A job process sends a heartbeat every 10 s."""

GLOBAL_MODEL = "global_model.safetensors"


def federation(folder: Path, **options) -> Federation:
    """Two tiny hospitals under the reviewed policy, except for what ``options`` of Federation say."""
    policy = {SERVER: str(server_policy(folder / "policy")), **dict.fromkeys(SITES, "reviewed")}
    files = hospitals(folder / "hospitals")
    given = {"policy": policy, "site_files": files, "variables": EARLY, **options}
    return Federation(folder / "federation", SITES, **given)


def server_policy(folder: Path) -> Path:
    """The server's policy, but two jobs may run at once and a silent site is dropped after 30 s, not 600 s."""

    def change(resources: dict) -> None:
        (scheduler,) = (part for part in resources["components"] if part["id"] == "job_scheduler")
        scheduler["args"]["max_jobs"] = 2
        resources["servers"][0]["heart_beat_timeout"] = 30

    shutil.copytree(POLICIES / "server", folder)
    edit(folder / "resources.json", change)
    return folder


def whole_job(out: Path, min_sites: int = 1) -> Path:
    """The job whose faulty runs are compared with ``uninterrupted``."""
    return bundle(out, rounds=ROUNDS, local_steps=STEPS, min_sites=min_sites)


def launch_policy(federation: Federation, site: str, **values: object) -> None:
    """Other arguments for a site's SiteJobLauncher; they count when the site starts again."""

    def change(resources: dict) -> None:
        (launcher,) = (part for part in resources["components"] if part["id"] == "process_launcher")
        launcher["args"] |= values

    edit(federation.kit(site) / "local" / "resources.json", change)


def results(federation: Federation, job: str) -> Path:
    """The server's part of a finished job, downloaded."""
    return federation.download(job) / "workspace" / "app_server"


def events(folder: Path, kind: str) -> list[dict]:
    """The progress events of one kind in a server's part of a job."""
    lines = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def updates(folder: Path) -> set[tuple[int, str]]:
    """(round, site) of every accepted update."""
    return {(event["round"], event["site"]) for event in events(folder, "update")}


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_model(folder / GLOBAL_MODEL)[0]


def assert_same_bits(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    assert len(expected) > 40
    different = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert not different, different


def wait_until_training(federation: Federation, job: str, site: str, round_number: int) -> None:
    """Until ``site`` trains in this round (from 1): it has its task, and its answer is seconds away."""
    line = re.compile(rf"run={job}.*got task assignment: name=train")

    def trains() -> bool:
        return len(line.findall(federation.site_log(site))) >= round_number

    if round_number > 1:
        federation.wait_for_event(job, "round", round=round_number - 1)
    federation.wait_for(trains, 60, f"{site} gets round {round_number}")


def resume(left: Path, out: Path) -> Path:
    """What ``fedpartial resume LEFT -o OUT`` writes."""
    done = CliRunner().invoke(app, ["resume", str(left), "-o", str(out)])
    assert done.exit_code == 0, done.output
    return out


def finished_rounds(folder: Path) -> int:
    return load_run_state(folder / RUN_STATE).rounds
