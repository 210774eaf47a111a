"""Follow a ``fedpartial run``: keep the models of every round, note when each round ended and what CPU time it took.

A run overwrites its global model in every round. Files of a run are replaced, never written into, so a second name for
a file (a hard link) keeps it at no cost; the run itself is not changed and not slowed down.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedpartial.cli.prepare import WORKSPACE
from fedpartial.cli.simulator import RUN, SERVER_APP
from fedpartial.flare.learner import STATE
from fedpartial.flare.persistor import GLOBAL_MODEL, TRUNK_MODEL
from fedpartial.flare.progress import PROGRESS_FILE
from fedpartial.training.checkpoint import state_path
from fedpartial.training.model_file import read_info

SERVER = ""
"""Owner of the CPU time of every process that is no site's: server, simulator, ``fedpartial run``."""
LOOK_SECONDS = 0.2
WITH_A_MODEL = ("final evaluation", "distribution and scores")
"""Phases at whose start the server has written a global model that no round has written."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The end of round ``round`` (from 1), or the start of a phase (round None).

    seconds: wall clock since the start. cpu_seconds: site, or SERVER -> CPU seconds so far. kept: folder of its models.
    """

    name: str
    round: int | None
    seconds: float
    cpu_seconds: dict[str, float]
    kept: str | None


class ProcessClock:
    """CPU seconds of a process and all its descendants, also of those that have ended, by site."""

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)
        self._seen: dict[tuple[int, float], tuple[str, float]] = {}

    def look(self) -> None:
        owners: dict[int, str] = {}
        for process in self._processes():
            try:
                owner = _client(process.cmdline()) or owners.get(process.ppid(), SERVER)
                used = process.cpu_times()
            except psutil.Error:
                continue
            owners[process.pid] = owner
            self._seen[process.pid, process.create_time()] = owner, used.user + used.system

    def _processes(self) -> list[psutil.Process]:
        """Parents before their children."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def seconds(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for owner, seconds in self._seen.values():
            total[owner] = total.get(owner, 0.0) + seconds
        return total


class ModelKeeper:
    """Second names for the models of a run, a folder for each moment."""

    def __init__(self, workspace: Path, folder: Path):
        self.workspace, self.folder = workspace, folder

    def keep_round(self, number: int) -> Path:
        """The global model or trunk after round ``number``, and where not everything is shared every site's state."""
        place = self._place(f"round_{number:03d}")
        server = self.workspace / SERVER_APP
        for name in (GLOBAL_MODEL, TRUNK_MODEL):
            if (server / name).exists():
                os.link(server / name, place / name)
                self._check_round(place / name, number)
        if not (place / GLOBAL_MODEL).exists():
            self._keep_states(place, number)
        return place

    def keep_global(self, name: str) -> Path | None:
        model = self.workspace / SERVER_APP / GLOBAL_MODEL
        if not model.exists():
            return None
        place = self._place(name.replace(" ", "_"))
        os.link(model, place / GLOBAL_MODEL)
        return place

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir(parents=True)
        return place

    def _keep_states(self, place: Path, number: int) -> None:
        for app in sorted(self.workspace.glob(f"*/{RUN}/app_*")):
            state = state_path(app / STATE, number - 1)
            if state.exists():
                os.link(state, place / f"{app.parents[1].name}.safetensors")

    def _check_round(self, path: Path, number: int) -> None:
        if (found := read_info(path).round_number) != number:
            raise RuntimeError(f"{path}: holds round {found}, expected {number}: it was looked at too late")


def watch(command: Sequence[str], out: Path, kept: Path, environment: Mapping[str, str]) -> tuple[list[Moment], Moment]:
    """Run ``command``, a ``fedpartial run`` that writes to ``out``; its moments, and the end of the run.

    kept: new folder for the models, on the same file system. Raises CalledProcessError for a run that fails.
    """
    started, keeper = time.time(), ModelKeeper(out / WORKSPACE, kept)
    with (
        (kept.parent / "run.log").open("w") as log,
        subprocess.Popen(command, env=dict(environment), stdout=log, stderr=subprocess.STDOUT) as running,
    ):
        clock = ProcessClock(running.pid)
        try:
            moments = _follow(running, clock, keeper, started)
        except BaseException:
            running.terminate()  # fedpartial run ends its own processes then
            raise
    if running.returncode:
        error = subprocess.CalledProcessError(running.returncode, command)
        error.add_note(f"what it said: {log.name}")
        raise error
    seconds = time.time() - started
    return moments, Moment(name="end", round=None, seconds=seconds, cpu_seconds=clock.seconds(), kept=None)


def _follow(running: subprocess.Popen, clock: ProcessClock, keeper: ModelKeeper, started: float) -> list[Moment]:
    lines, moments, ended = _lines(keeper.workspace / SERVER_APP / PROGRESS_FILE), [], False
    while not ended:
        ended = running.poll() is not None
        clock.look()
        for event in next(lines):
            if event["event"] in ("round", "phase"):
                moments.append(_moment(event, event["time"] - started, clock.seconds(), keeper))
        time.sleep(0 if ended else LOOK_SECONDS)
    return moments


def _moment(event: Mapping, seconds: float, cpu_seconds: dict[str, float], keeper: ModelKeeper) -> Moment:
    number, name, kept = event.get("round"), event.get("name"), None
    if number is not None:
        name, kept = f"round {number}", keeper.keep_round(number)
    elif name in WITH_A_MODEL:
        kept = keeper.keep_global(name)
    return Moment(name=name, round=number, seconds=seconds, cpu_seconds=cpu_seconds, kept=kept and kept.name)


def _lines(path: Path) -> Iterator[list[dict]]:
    """The events that a progress file got since the last look; it may not exist yet, or no longer."""
    place = 0
    while True:
        try:
            with path.open("rb") as file:
                file.seek(place)
                text = file.read()
        except FileNotFoundError:
            text = b""
        whole = text[: text.rfind(b"\n") + 1]
        place += len(whole)
        yield [json.loads(line) for line in whole.splitlines()]


def _client(words: Sequence[str]) -> str | None:
    """The site whose process has this command line, if it is one."""
    return words[words.index("--client") + 1] if "--client" in words[:-1] else None
