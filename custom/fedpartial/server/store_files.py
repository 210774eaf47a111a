"""What may lie in a store's folder, and what of it a process that died has left there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedpartial.errors import ConfigError
from fedpartial.server.durable import TEMPORARY, sync_folder
from fedpartial.server.ledger import LEDGER
from fedpartial.server.store_manifest import CHECKSUM_LENGTH, COPY, MANIFEST, NAME, Entry, Manifest

MODELS = "models"
PROBABILITIES = "probabilities"
"""Folder of what was computed from the models: one folder for each version, called ``Entry.key``."""
DISTILLING = "distilling"
"""Folder of a distillation under way: weights that have begun to learn from the models."""
VERSION_FILE = re.compile(rf"v\d{{5,}}-[0-9a-f]{{{CHECKSUM_LENGTH}}}\.safetensors")
CACHE_FOLDER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]*-v[1-9]\d*-[0-9a-f]{{{CHECKSUM_LENGTH}}}")
OWN = (MANIFEST, COPY, LEDGER)


def model_file(folder: Path, entry: Entry) -> Path:
    """Nothing of the path is written in the manifest, so no manifest can point out of the store."""
    return folder / MODELS / entry.site / entry.file_name


def is_store(folder: Path) -> bool:
    """Whether models are, or were, kept here; a store without its manifest is one too."""
    return any((folder / name).exists() for name in (MANIFEST, COPY)) or next(_model_files(folder), None) is not None


def check_foreign(folder: Path) -> None:
    """Raise ConfigError for the first file that is not the store's own: it may be a model that somebody misses.

    Hidden files pass (a file system or a file manager makes them), and folders beside the models: other parts of the
    server keep theirs there.
    """
    strange = [path for path in _listed(folder) if not path.is_dir() and path.name not in OWN]
    strange += [path for path in _listed(folder / MODELS) if not (path.is_dir() and NAME.fullmatch(path.name))]
    strange += [path for path in _model_files(folder) if not VERSION_FILE.fullmatch(path.name)]
    if strange:
        raise ConfigError(
            where=str(strange[0].parent),
            field=strange[0].name,
            got="a file that the store has not written",
            expected="the store's own files alone",
            remedy="Move it to another place; models come into the store by a job. Nothing was changed.",
        )


def clear(folder: Path, manifest: Manifest) -> None:
    """Delete what the manifest does not name, of files and folders with the store's own kinds of names alone."""
    kept = {model_file(folder, entry) for entry in manifest.entries()}
    for place in (folder, folder / MODELS, *_site_folders(folder)):
        gone = [path for path in _all(place) if TEMPORARY.fullmatch(path.name)]
        if place.parent.name == MODELS:
            gone += [path for path in _listed(place) if VERSION_FILE.fullmatch(path.name) and path not in kept]
        for path in gone:
            path.unlink()
        if gone:
            sync_folder(place)
    for place in _site_folders(folder):
        if not _all(place):
            place.rmdir()
            sync_folder(place.parent)
    _clear_caches(folder / PROBABILITIES, {entry.key for entry in manifest.entries()})


def _clear_caches(folder: Path, kept: set[str]) -> None:
    for path in _all(folder):
        if CACHE_FOLDER.fullmatch(path.name) and path.name not in kept and path.is_dir():
            delete_folder(path)


def delete_folder(path: Path) -> None:
    """With all that is in it, where there is one; of a link to a folder the link alone."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _site_folders(folder: Path) -> list[Path]:
    return [path for path in _listed(folder / MODELS) if path.is_dir()]


def _model_files(folder: Path) -> Iterator[Path]:
    for site in _site_folders(folder):
        yield from _listed(site)


def _listed(folder: Path) -> list[Path]:
    return [path for path in _all(folder) if not path.name.startswith(".")]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
