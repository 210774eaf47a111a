"""Where a comparison's federations keep what outlives a job: a home for each row and seed, or one that rows share.

Rows that name the same home are stages of one continuing federation, run in the order of the plan.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedpartial.cli.compare_check import ComparisonRun, folder_error
from fedpartial.cli.refused import Refused
from fedpartial.errors import ConfigError

DELETE = "Delete this folder to run it again"


def check_homes(runs: Sequence[ComparisonRun]) -> None:
    """Refused where a finished run rests on one that has to run again, or on a home that is gone."""
    if faults := [fault for run in runs for fault in _faults(run, earlier_stages(run, runs))]:
        raise Refused(faults)


def earlier_stages(run: ComparisonRun, runs: Sequence[ComparisonRun]) -> list[ComparisonRun]:
    """The runs before this one that share its home."""
    same = [other for other in runs if _home(other) == _home(run)]
    return same[: next(place for place, other in enumerate(same) if other is run)]


def open_home(run: ComparisonRun, runs: Sequence[ComparisonRun]) -> None:
    """Make the run's home; the first of its runs finds it empty, whatever an earlier attempt has left there."""
    if not earlier_stages(run, runs) and _home(run).exists():
        shutil.rmtree(_home(run))
    _home(run).mkdir(parents=True, exist_ok=True)


def failed_stage(run: ComparisonRun, runs: Sequence[ComparisonRun]) -> ComparisonRun | None:
    """An earlier stage of the same federation that has failed, so that this one has nothing to go on from."""
    return next((stage for stage in earlier_stages(run, runs) if stage.faults), None)


def _home(run: ComparisonRun) -> Path:
    return run.checked.options.home


def _faults(run: ComparisonRun, earlier: Sequence[ComparisonRun]) -> Iterator[ConfigError]:
    missing = next((stage for stage in earlier if stage.report is None), None)
    if run.report is not None and missing is not None:
        expected = f"no finished run after {missing}, which has to run first: both share a home"
        yield folder_error(run.checked.out, "a finished run", expected, DELETE)
    if run.report is None and any(stage.report for stage in earlier) and not _home(run).is_dir():
        stages = ", ".join(str(stage) for stage in earlier)
        expected = f"what {stages} has left there for {run}"
        yield folder_error(_home(run), "no such folder", expected, "Put it back, or delete the folders of these runs")
