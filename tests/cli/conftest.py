"""A copy of a shipped job, consoles that record, two tiny hospitals with site files, and a fake simulator."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_hospitals import SITES, write_hospitals

import fedpartial
from fedpartial.cli.prepare import Options
from fedpartial.cli.reply import Reply, attempt
from fedpartial.cli.watch import Patience

JOBS = Path(fedpartial.__file__).parents[2] / "jobs"
SHORT = Patience(look=0.05, fault=0.3, lost=0.3, not_restarted=0.3, ending=0.3, terminate=0.3)
LONG = Patience(look=0.05, fault=100.0, lost=100.0, not_restarted=100.0, ending=100.0, terminate=100.0)
"""So long that a test runs into its time limit when the watch has to wait."""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """jobs/condistfl as a folder of its own."""
    return Path(shutil.copytree(JOBS / "condistfl", tmp_path / "jobs" / "condistfl"))


@pytest.fixture
def edit(job: Path) -> Callable:
    """``edit("meta.json", lambda content: ...)`` changes a JSON file of the job in place."""

    def change(file: str, how: Callable[[dict], object]) -> Path:
        path = job / file if file == "meta.json" else job / "app" / "config" / file
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))
        return path

    return change


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Site files <site>.json for two hospitals of five small cases each; returns their folder."""
    return write_hospitals(tmp_path)


class Screen:
    """Two consoles without a terminal, and what was written to them."""

    def __init__(self):
        self._out, self._errors = StringIO(), StringIO()
        self.reply = Reply()
        self.reply.console = Console(file=self._out, width=100)
        self.reply.errors = Console(file=self._errors, width=100)

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def errors(self) -> str:
        return self._errors.getvalue()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture(scope="session")
def report_text() -> str:
    """A valid report.json of a run of SITES."""
    from fedpartial.evaluation.metrics import score_case
    from fedpartial.evaluation.record import RunRecord
    from fedpartial.evaluation.summary import summarise
    from fedpartial.presets import ABDOMEN

    label = np.zeros((6, 6, 6), np.uint8)
    label[1:4, 1:4, 1:4] = ABDOMEN.index("liver")
    labelled = ABDOMEN.labelled_mask(["liver"])
    scores = score_case(label, label, spacing_mm=(1.0, 1.0, 1.0), space=ABDOMEN, labelled=labelled)
    nothing = {"commit": None, "versions": {}, "device": {}, "precision": {}, "external": {}, "rounds": []}
    record = RunRecord(
        job="condistfl",
        seed=0,
        preset="phantom",
        empty_class_policy="exclude",
        sites={site: summarise([scores], ABDOMEN) for site in SITES},
        cases={site: [scores] for site in SITES},
        **nothing,
    )
    return json.dumps(record.to_report())


@pytest.fixture
def fake_run(tmp_path: Path, job: Path, screen: Screen, report_text: str, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """``fake_run("good")`` is ``fedpartial run`` over the fake simulator; returns exit code and results folder."""
    script = tmp_path / "fake_simulator.py"
    shutil.copy(Path(__file__).with_name("fake_simulator.py"), script)
    script.with_name("report.json").write_text(report_text)

    def run(behaviour: str, *, must_end_by_itself: bool = False, **options) -> tuple[int, Path]:
        from fedpartial.cli import run as command

        def fake_command(job: Path, workspace: Path, threads: int) -> list[str]:
            return [sys.executable, str(script), behaviour, str(job), "-w", str(workspace), "-t", str(threads)]

        monkeypatch.setattr(command, "simulator_command", fake_command)
        out = options.pop("out", tmp_path / "out")
        given = Options(**{"job": str(job), "sites": SITES, "out": out, "threads": len(SITES), **options})
        patience = LONG if must_end_by_itself else SHORT
        return attempt(lambda reply: command.run_job(given, reply, patience), screen.reply), out

    return run


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def left_running(tmp_path: Path) -> Callable[[Path], list[int]]:
    """``left_running(out, count)``: which of the ``count`` processes that the fake noted still run."""

    def find(out: Path, count: int) -> list[int]:
        pids = [int(line) for line in (out / "workspace" / "pids.txt").read_text().split()]
        assert len(pids) == count
        return [pid for pid in pids if alive(pid)]

    return find
