"""What ``fedpartial compare`` says while its runs go on, and when they will be done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.cli.console import say
from fedpartial.cli.progress_view import ProgressView
from fedpartial.evaluation.formats import rough_duration

if TYPE_CHECKING:
    from rich.console import Console


class StatusView(ProgressView):
    """A run's status line on a terminal, and none of its lines."""

    def say(self, line: str) -> None:
        pass


class Progress:
    """A line when a run starts and one when it ends."""

    def __init__(self, runs: Sequence[ComparisonRun], console: Console, *, verbose: bool):
        self.runs, self.console = runs, console
        self._view = ProgressView if verbose else StatusView
        self._started = time.monotonic()

    def introduce(self) -> None:
        done = sum(run.report is not None for run in self.runs)
        say(self.console, f"{_count(len(self.runs), 'run')}, {done} of them finished before")

    def view(self, run: ComparisonRun) -> ProgressView:
        """What to show of a run itself."""
        return self._view(self.console, run.checked.job.sites)

    def start(self, run: ComparisonRun) -> None:
        say(self.console, f"{self._place(run)}: {self._times()}")

    def end(self, run: ComparisonRun) -> None:
        how = "failed after" if run.faults else "done in"
        say(self.console, f"{self._place(run)}: {how} {rough_duration(run.seconds)}; {self._times()}")

    def _place(self, run: ComparisonRun) -> str:
        return f"run {self.runs.index(run) + 1} of {len(self.runs)}: {run}"

    def _times(self) -> str:
        left = seconds_left(self.runs)
        so_far = f"{rough_duration(time.monotonic() - self._started)} so far"
        return so_far if left is None else f"{so_far}, about {rough_duration(left)} left"


def seconds_left(runs: Sequence[ComparisonRun]) -> float | None:
    """For the runs that have not ended, from the seconds per local step of the finished ones: those of the same method
    where there are any, else of all. None while no run is finished."""
    rates = {name: _rate([run for run in runs if run.name == name]) for name in {run.name for run in runs}}
    overall = _rate(runs)
    if overall is None:
        return None
    waiting = (run for run in runs if run.seconds is None)
    return sum(run.work * (rates[run.name] or overall) for run in waiting)


def _rate(runs: Sequence[ComparisonRun]) -> float | None:
    finished = [run for run in runs if run.report is not None and run.work]
    return sum(run.seconds for run in finished) / sum(run.work for run in finished) if finished else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
