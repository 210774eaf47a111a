"""Why a run failed, in the words of whoever knows most."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.simulator import RUN
from fedpartial.flare.failure import FAILURE_FILE

FAILURES = f"*/{RUN}/app_*/{FAILURE_FILE}"
PLAIN_KINDS = ("ConfigError", "DataFaults")
"""Errors whose text says everything; of others the kind is shown too."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a run failed; ``site`` where one site is to blame."""

    text: str
    site: str | None = None

    def __str__(self) -> str:
        return f"site {self.site}: {self.text}" if self.site else self.text


def one_per_site(faults: Iterable[Fault]) -> list[Fault]:
    """The first fault of every site, and every other one once."""
    first = {(fault.site, "" if fault.site else fault.text): fault for fault in reversed(list(faults))}
    return list(reversed(first.values()))


def read_failures(workspace: Path) -> list[Fault]:
    """What the sites wrote about their failures, in full: this is the user's own machine."""
    return [read_failure(path, workspace) for path in sorted(workspace.glob(FAILURES))]


def read_failure(path: Path, workspace: Path) -> Fault:
    """One site's own words; its folder is the first below ``workspace``."""
    site = path.relative_to(workspace).parts[0]
    text = path.read_text(encoding="utf-8")
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        return Fault(site=site, text=text or f"{path} is empty")
    error = given["error"] if given["kind"] in PLAIN_KINDS else f"{given['kind']}: {given['error']}"
    return Fault(site=given["site"], text=error)
