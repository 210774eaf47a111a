"""One number for the code that runs here: a sha256 over this package's own files.

It tells an older or an edited package from the server's. It is no defence against a site that lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
SUFFIXES = (".py", ".schema", ".html", ".css")
"""No ".json": ``nvflare job submit`` rewrites every JSON file of a job, and turns "$schema" into "schema"."""
MARKERS = ("py.typed",)
SHORT = 12


@cache
def package_hash() -> str:
    """The hash of the package as it was when this process first asked, 64 hexadecimal digits."""
    return hash_of(package_files())


def package_files(folder: Path = PACKAGE) -> dict[str, str]:
    """Relative posix path -> sha256 of everything an installation of the package holds, in the order of the paths."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(_names(folder))}


def hash_of(files: Mapping[str, str]) -> str:
    """sha256 over the lines that ``sha256sum`` writes for these files."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def _names(folder: Path) -> Iterator[str]:
    """Neither caches nor what editors leave behind: hidden names, backups, anything that is no package data."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for name in files:
            if name in MARKERS or (name.endswith(SUFFIXES) and not name.startswith(".")):
                yield (Path(place) / name).relative_to(folder).as_posix()
