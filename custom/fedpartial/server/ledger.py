"""What a federation has cost: every message between server and sites, and the training at both, in one file of lines.

The file is only ever appended to, a line at a time, and synchronised: the numbers are measured, and survive the jobs. A
line that a crash has torn is left out, with a warning.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock

from fedpartial.errors import needs_space
from fedpartial.server.durable import make_folder, sync_folder

log = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
SERVER = "server"
"""The name under which the server's own training is noted; no message comes from it."""
LOCK = ".ledger.lock"
DIRECTIONS = {"message": ("up", "down"), "work": (None,)}


@dataclass(frozen=True, kw_only=True)
class Load:
    """Messages and bytes to the server (up) and from it (down); work in epochs, optimiser steps and seconds."""

    messages_up: int = 0
    messages_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    epochs: float = 0.0
    steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Loads:
    """By site, and the server's own work, which is in no site's."""

    sites: dict[str, Load] = field(default_factory=dict)
    server: Load = field(default_factory=Load)

    @property
    def all_sites(self) -> Load:
        return sum(self.sites.values(), Load())

    def adding(self, site: str, load: Load) -> Loads:
        if site == SERVER:
            return Loads(sites=self.sites, server=self.server + load)
        return Loads(sites={**self.sites, site: self.sites.get(site, Load()) + load}, server=self.server)


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage ``alone``, and ``cumulative``: together with all the stages that began before it."""

    stage: str
    alone: Loads
    cumulative: Loads


class Ledger:
    """The ledger in the file ``path``, which its first line makes."""

    def __init__(self, path: Path):
        self.path = path

    def message(self, stage: str, site: str, direction: Literal["up", "down"], kind: str, num_bytes: int) -> None:
        """A message between the server and ``site``; ``kind`` is what it carried, for example "model"."""
        if direction not in DIRECTIONS["message"] or site == SERVER:
            raise ValueError(f"a message goes up from a site or down to one, not {direction!r} at {site!r}")
        self._append(
            {
                "record": "message",
                "stage": stage,
                "site": site,
                "direction": direction,
                "kind": kind,
                "bytes": int(num_bytes),
            }
        )

    def work(self, stage: str, site: str, *, steps: int, epochs: float, seconds: float) -> None:
        """Training of a site, or of "server"."""
        values = {"steps": int(steps), "epochs": float(epochs), "seconds": float(seconds)}
        self._append({"record": "work", "stage": stage, "site": site, **values})

    def read(self) -> list[dict]:
        """All lines, in their order, as they were given, each with its time."""
        return list(self._records())

    def summary(self) -> tuple[StageSummary, ...]:
        """Loads by stage, in the order in which the stages first appear."""
        by_stage: dict[str, Loads] = {}
        for record in self._records():
            stage = by_stage.get(record["stage"], Loads())
            by_stage[record["stage"]] = stage.adding(record["site"], _load(record))
        return tuple(_cumulated(by_stage))

    def _append(self, record: dict) -> None:
        """One line, in one write, after the end of a torn one."""
        make_folder(self.path.parent)
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **record}
        with FileLock(self.path.with_name(LOCK)), needs_space("the ledger", self.path.parent):
            is_new = not self.path.exists()
            line = f"{'' if self._ends_whole() else chr(10)}{json.dumps(record, allow_nan=False)}\n"
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self.path.parent)

    def _ends_whole(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _records(self) -> Iterator[dict]:
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            record = _parsed(line)
            if record is None:
                log.warning("%s: line %d is no record and does not count: a crash has torn it", self.path, number)
            else:
                yield record


_SHAPES = {
    "message": {"site": str, "direction": str, "kind": str, "bytes": int},
    "work": {"site": str, "steps": int, "epochs": float, "seconds": float},
}


def _parsed(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
        shape = _SHAPES[record["record"]] | {"stage": str, "time": str}
        whole = all(isinstance(record[name], kind) for name, kind in shape.items())
        return record if whole and record.get("direction") in DIRECTIONS[record["record"]] else None
    except (ValueError, KeyError, TypeError):
        return None


def _load(record: dict) -> Load:
    if record["record"] == "work":
        return Load(steps=record["steps"], epochs=record["epochs"], seconds=record["seconds"])
    direction = record["direction"]
    return Load(**{f"messages_{direction}": 1, f"bytes_{direction}": record["bytes"]})


def _cumulated(by_stage: dict[str, Loads]) -> Iterator[StageSummary]:
    total = Loads()
    for stage, alone in by_stage.items():
        for site, load in alone.sites.items():
            total = total.adding(site, load)
        total = total.adding(SERVER, alone.server)
        yield StageSummary(stage=stage, alone=alone, cumulative=total)
