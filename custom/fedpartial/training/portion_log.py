"""What the portions of a training took, in a file beside its state.

The job that finishes a model reports the work of all jobs before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

NAME = "portions.json"


class PortionLog:
    """Seconds of every portion, counted once even where one was trained again, and the last one's numbers.

    A log that is lost or torn costs these numbers, never the training.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self._seconds, self.last = _read(self.path)

    def note(self, portion: int, metrics: Mapping[str, float]) -> None:
        """After a portion, whose state is on disk."""
        self._seconds[str(portion)], self.last = metrics["seconds"], dict(metrics)
        temporary = self.path.with_name(f".{NAME}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"seconds": self._seconds, "last": self.last}), encoding="utf-8")
        os.replace(temporary, self.path)

    def metrics(self, default: Mapping[str, float]) -> dict[str, float]:
        """The last portion's numbers, with the seconds of all; ``default`` where none is known."""
        return {**(self.last or default), "seconds": sum(self._seconds.values())}


def _read(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        seconds, last = stored["seconds"], stored["last"]
        return {number: float(value) for number, value in seconds.items()}, dict(last)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
