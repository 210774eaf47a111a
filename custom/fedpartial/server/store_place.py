"""Where a federation's store lies: the server's own word, never a job's, so that it outlives jobs and workspaces."""

from __future__ import annotations

import json
from pathlib import Path

from fedpartial.errors import ConfigError, check_keys, unique_keys
from fedpartial.server.store_manifest import check_name
from fedpartial.sites import default_home

STORE_FILE = "store.json"
EXAMPLE = '{"folder": "../store/federations"}'


def default_stores() -> Path:
    """The folder of all federations' stores where the server names none."""
    return default_home() / "store"


def store_folder(config_dir: Path, federation: str) -> Path:
    """The folder of one federation's store; ``config_dir`` is the ``local`` folder of the server's FLARE workspace.

    ``<config_dir>/store.json`` {"folder": ...} names the folder of all federations, relative to itself; without that
    file it is ``default_stores()``. Raises ConfigError for an unreadable file, and a name that is no folder's.
    """
    name = check_name(federation, "federation")
    path = config_dir / STORE_FILE
    return (_stores(path) if path.exists() else default_stores()) / name


def _stores(path: Path) -> Path:
    try:
        given = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise _error(path, "(file)", str(error), "readable JSON") from error
    check_keys(given, ("folder",), ("folder",), where=str(path))
    folder = given["folder"]
    if not isinstance(folder, str) or not folder:
        raise _error(path, "folder", folder, "a path")
    try:
        return (path.parent / Path(folder).expanduser()).resolve()
    except RuntimeError as error:
        raise _error(path, "folder", folder, "a path whose home folder exists") from error


def _error(path: Path, field: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        where=str(path), field=field, got=got, expected=expected, remedy=f"Write, for example: {EXAMPLE}"
    )
