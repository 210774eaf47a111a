"""Failures of a site: the whole story stays at the site, the server learns the kind and the remedy.

Paths and file names may name patients, so only ``public_reason`` travels.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedpartial.data.datalist import SPLITS
from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft
from fedpartial.flare.code_check import CodeMismatch
from fedpartial.networks.canonical import StateMismatch
from fedpartial.sites import ALLOWED
from fedpartial.training.local_trainer import TrainingDiverged
from fedpartial.training.plan import Plan

FAILURE_FILE = "site_failure.json"
REASON_HEADER = "fedpartial_reason"
DETAILS = "details at the site, in its log and site_failure.json"
KNOWN_FIELDS = {"(file)", *ALLOWED, *SPLITS, *Plan.__dataclass_fields__}


def write_failure(folder: Path, site: str, error: Exception) -> Path:
    """Leave the error where ``fedpartial run`` and the site's administrator find it."""
    path = folder / FAILURE_FILE
    path.write_text(json.dumps({"site": site, "kind": type(error).__name__, "error": str(error)}), encoding="utf-8")
    return path


def public_reason(error: Exception) -> str:
    """What may leave the site: no path, no file name, no key or value from a site's files."""
    if isinstance(error, CodeMismatch):
        return error.public
    if isinstance(error, ConfigError):
        return f"{public_field(error.field)}: expected {error.expected} ({DETAILS})"
    if isinstance(error, DataFaults):
        return f"{len(error.faults)} fault(s) in the data set ({DETAILS})"
    if isinstance(error, NoSpaceLeft):
        return f"no space left for {error.what} ({DETAILS})"
    if isinstance(error, (TrainingDiverged, StateMismatch)):
        return str(error)
    return f"{type(error).__name__} ({DETAILS})"


def public_field(field: str) -> str:
    """The known name a field begins with; a key that somebody at the site typed is not repeated."""
    name = field.split(".")[0].split("[")[0]
    return name if name in KNOWN_FIELDS else "a field"
