"""The same function for many cases, some at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fedpartial.errors import ConfigError

Task, Result = TypeVar("Task"), TypeVar("Result")


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[int, Result]]:
    """(position, result) of every task, as they end. One worker is this process; others are started anew, because a
    copy of a process in which torch has computed may hang.

    Raises ConfigError where a process dies, as one without memory does.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_silently)
    try:
        positions = {pool.submit(function, task): number for number, task in enumerate(tasks)}
        for future in as_completed(positions):
            yield positions[future], future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            where="--workers",
            field="processes",
            got=workers,
            expected="as many as fit into memory: one of them was killed",
            remedy="Give a smaller number, 1 for the largest scans.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_silently() -> None:
    """Ctrl-C reaches every process of the terminal: workers end at once, and only the command itself says so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
