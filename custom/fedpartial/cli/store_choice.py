"""Which store a command means."""

from __future__ import annotations

from pathlib import Path

from fedpartial.errors import ConfigError
from fedpartial.server.model_store import ModelStore
from fedpartial.server.store_files import is_store
from fedpartial.server.store_place import default_stores


class NoStore(Exception):
    """No federation has stored anything here yet, which is no fault."""


def choose_store(stores: Path | None, federation: str | None) -> ModelStore:
    """The store of ``federation`` in the folder ``stores``, or the only one there; a store itself may be named too.

    Raises NoStore for an empty default folder; ConfigError for a name that is not there, for several without a
    name, and for a named folder without any.
    """
    folder = default_stores() if stores is None else stores.absolute()
    if federation is None and is_store(folder):
        return ModelStore(folder)
    names = sorted(path.name for path in folder.iterdir() if is_store(path)) if folder.is_dir() else []
    if not names and stores is None and federation is None:
        raise NoStore(f"No federation has stored a model in {folder} yet. A stage of an MMDS job stores the first.")
    if federation is None and len(names) == 1:
        return ModelStore(folder / names[0])
    if federation not in names:
        raise _error(folder, federation, names)
    return ModelStore(folder / federation)


def _error(folder: Path, federation: str | None, names: list[str]) -> ConfigError:
    where, field = (str(folder), "federation") if federation or names else ("--store", "folder")
    got = federation or (f"{len(names)} federations" if names else str(folder))
    expected = f"one of {', '.join(names)}" if names else "a folder with the store of a federation"
    remedy = "Name one with --federation." if names else "Name the folder that the server's local/store.json names."
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
