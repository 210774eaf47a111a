"""Runs a small copy of a job in FLARE's simulator and ends every process of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from fedpartial.training.model_file import load_model

JOBS_DIR = Path(__file__).parents[2] / "jobs"
NVFLARE = Path(sys.executable).with_name("nvflare")
LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Run:
    """A finished simulator run."""

    workspace: Path

    @property
    def app(self) -> Path:
        return self.workspace / "server" / "simulate_job" / "app_server"

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return load_model(self.app / "global_model.safetensors")[0]

    @property
    def report(self) -> dict:
        return json.loads((self.app / "report.json").read_text(encoding="utf-8"))


def small_job(name: str, folder: Path, sites: tuple[str, ...], **values) -> Path:
    """A copy of a job for these sites; ``values`` replace variables of its server's config."""
    job = folder / name
    shutil.copytree(JOBS_DIR / name, job)
    edit(job / "meta.json", min_clients=len(sites), deploy_map={"app": ["server", *sites]})
    edit(job / "app" / "config" / "config_fed_server.json", min_clients=len(sites), **values)
    return job


def edit(path: Path, **values) -> None:
    given = json.loads(path.read_text(encoding="utf-8"))
    unknown = set(values) - set(given)
    assert not unknown
    path.write_text(json.dumps({**given, **values}), encoding="utf-8")


def simulate(job: Path, workspace: Path, threads: int) -> Run:
    """Run a job to its end; whatever happens, no process of it stays behind."""
    home = workspace.parent / "home"
    home.mkdir()
    environment = {**os.environ, "FEDPARTIAL_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "HOME": str(home)}
    command = [str(NVFLARE), "simulator", str(job), "-w", str(workspace), "-t", str(threads)]
    log = workspace.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=workspace.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(timeout=LIMIT_SECONDS)
        finally:
            end(process)
    assert code == 0, log.read_text()[-3000:]
    return Run(workspace)


def end(process: subprocess.Popen) -> None:
    """Kill the process, its group and its descendants: FLARE's clients have sessions of their own."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
