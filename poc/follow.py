"""Shows how far a job is, from the progress file that the server writes; ends when it is told to (SIGTERM).

python poc/follow.py SERVER_KIT/JOB_ID kidney liver pancreas spleen
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from fedpartial.cli.progress_view import line_of
from fedpartial.cli.simulator import SERVER_APP
from fedpartial.flare.progress import PROGRESS_FILE

SECONDS_BETWEEN_LOOKS = 0.3


def main(job: Path, sites: Sequence[str]) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    plan: dict = {}
    for event in events(job / SERVER_APP.name / PROGRESS_FILE, ended):
        plan = event if event["event"] == "plan" else plan
        if line := shown(event, plan, sites):
            print(f"  {line}", flush=True)


def shown(event: dict, plan: dict, sites: Sequence[str]) -> str | None:
    """The line for an event; a failure with its reason."""
    if event["event"] == "failure":
        return f"site {event['site']} failed: {event['reason']}"
    if event["event"] == "panic":
        return f"the server stops the job: {event['reason']}"
    return line_of(event, plan, sites)


def events(path: Path, ended: threading.Event) -> Iterator[dict]:
    """Events as they are written. The file stays open: FLARE removes the folder as soon as the job has ended."""
    while not path.exists():
        if ended.wait(SECONDS_BETWEEN_LOOKS):
            return
    with path.open(encoding="utf-8") as file:
        over = False
        while True:
            yield from map(json.loads, _lines(file))
            if over:
                return
            over = ended.wait(SECONDS_BETWEEN_LOOKS)


def _lines(file: TextIO) -> Iterator[str]:
    """Complete lines; the start of one is read again later."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(position)
            return
        yield line


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
