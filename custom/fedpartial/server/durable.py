"""Files that are whole after a crash at any moment, and folders that know of them.

A file is written beside its place, synchronised to the disk, renamed over its place, and the folder synchronised: a
reader sees the old content or the new one, and so does whoever looks after the power went.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedpartial.errors import needs_space

TEMPORARY = re.compile(r"\.fedpartial-.+\.tmp")
"""Names of what a crash can leave."""


def write_durably(path: Path, content: bytes) -> None:
    """Replace the file. Two writers at a time are not meant: the caller holds a lock.

    Raises NoSpaceLeft on a full disk; the old file is still there.
    """
    temporary = path.with_name(f".fedpartial-{path.name}.tmp")
    with needs_space("the model store", path.parent), temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """The folder with its parents, each known to the one above it; what is made here is its owner's alone."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Names that were added to a folder, or taken from it, survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
