"""The one way in which commands read a JSON file that somebody has written."""

from __future__ import annotations

import json
from pathlib import Path

from fedpartial.errors import ConfigError, unique_keys


def read_json(path: Path) -> dict:
    """The JSON object in a file, each key once; ConfigError for anything else."""
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        remedy = "Correct the file or its path."
        raise ConfigError(where=str(path), field="(file)", got=got, expected="readable JSON", remedy=remedy) from error
    if not isinstance(given, dict):
        got, remedy = type(given).__name__, "Write one object in braces."
        raise ConfigError(where=str(path), field="(file)", got=got, expected="a JSON object", remedy=remedy)
    return given
