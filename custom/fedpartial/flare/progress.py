"""Progress of a run as lines of JSON in the server's job folder; ``fedpartial run`` follows the file."""

from __future__ import annotations

import json
import time
from pathlib import Path

PROGRESS_FILE = "progress.jsonl"


class ProgressFile:
    """Appends one event per line; every event has "event" and "time"."""

    def __init__(self, folder: Path):
        self.path = folder / PROGRESS_FILE

    def write(self, event: str, **values: object) -> None:
        line = json.dumps({"event": event, "time": time.time(), **values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
