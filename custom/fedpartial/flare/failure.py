"""Failures of a site: the whole story stays at the site, the server learns the kind and the remedy.

Paths and file names may name patients, so only ``public_reason`` travels.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedpartial.errors import ConfigError, DataFaults
from fedpartial.networks.canonical import StateMismatch
from fedpartial.training.local_trainer import TrainingDiverged

FAILURE_FILE = "site_failure.json"
REASON_HEADER = "fedpartial_reason"


def write_failure(folder: Path, site: str, error: Exception) -> Path:
    """Leave the error where ``fedpartial run`` and the site's administrator find it."""
    path = folder / FAILURE_FILE
    path.write_text(json.dumps({"site": site, "kind": type(error).__name__, "error": str(error)}), encoding="utf-8")
    return path


def public_reason(error: Exception) -> str:
    """What may leave the site: no path, no file name, no value from a file."""
    if isinstance(error, ConfigError):
        return f"{error.field}: expected {error.expected} (details in the site's log)"
    if isinstance(error, DataFaults):
        return f"{len(error.faults)} fault(s) in the data set (listed in the site's log)"
    if isinstance(error, (TrainingDiverged, StateMismatch)):
        return str(error)
    return f"{type(error).__name__} (details in the site's log)"
