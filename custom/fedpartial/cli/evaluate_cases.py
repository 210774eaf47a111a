"""The cases of ``fedpartial evaluate`` scored, several at a time, under one bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fedpartial.cli.reply import Reply
from fedpartial.data.faults import Fault
from fedpartial.data.side_by_side import in_processes
from fedpartial.errors import ConfigError
from fedpartial.evaluation.scored_case import ScoredCase, ScoreTask, score_files

MAX_SHOWN = 5


def score_cases(tasks: Sequence[ScoreTask], workers: int, reply: Reply) -> tuple[list[ScoredCase], list[Fault]]:
    """Scores in the order of the tasks, and the faults of files that could not be scored, which are shown."""
    found = {}
    with _progress(reply, len(tasks)) as advance:
        for position, result in in_processes(score_files, tasks, workers):
            found[position] = result
            advance(tasks[position].name)
    ordered = [found[position] for position in range(len(tasks))]
    broken = [fault for result in ordered if isinstance(result, list) for fault in result]
    reply.fail(*shortened(broken))
    return [result for result in ordered if isinstance(result, ScoredCase)], broken


def shortened(faults: Sequence[Fault | ConfigError]) -> list[object]:
    """The first faults of every kind, and how many more there are: a wrong folder has one for every case."""
    by_kind: dict[str, list] = {}
    for fault in faults:
        by_kind.setdefault(getattr(fault, "kind", ""), []).append(fault)
    shown: list[object] = []
    for kind, found in by_kind.items():
        shown += found[:MAX_SHOWN]
        more = len(found) - MAX_SHOWN
        shown += [f"{more} more of this kind ({kind})" if kind else f"{more} more"] if more > 0 else []
    return shown


@contextmanager
def _progress(reply: Reply, total: int) -> Iterator[Callable[[str], None]]:
    """One bar; advance(name) after every case."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scored {task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=reply.console) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
