"""Ctrl-C, ``kill`` and a closed terminal: noted while a simulation is watched, raised everywhere else."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another polite request to end."""


class Interruption:
    """The signal handler. An exception out of a handler can hit any line, so while the simulator runs the first
    signal is only noted, and the watch sees it; everywhere else, and at the second signal, it is raised."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.watched = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, self.number or number
        if not (self.watched and first):
            raise Interrupted

    def requested(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        return 128 + self.number


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Ctrl-C, ``kill`` and a closed terminal all end a run in the same orderly way, unless nohup says otherwise."""
    interruption = Interruption()
    listened_to = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption) for number in listened_to}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
