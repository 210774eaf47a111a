"""The cases in a data set's folder: images and labels that belong together, and what has no partner."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedpartial.data.file_names import SUFFIXES
from fedpartial.datasets.layout import Found, FoundCase, Layout, Part
from fedpartial.errors import ConfigError

MAX_DEPTH = 6
"""Folders below the data set's that are looked into."""
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")


def list_files(folder: Path) -> tuple[str, ...]:
    """Paths of all NIfTI files in ``folder``, with "/" and the folder's own name in front, sorted.

    Hidden files are none of the data set ("._liver_0.nii.gz" is what macOS leaves in archives). Links are followed.
    Raises ConfigError where there is no such folder, and OSError for one that may not be read.
    """
    if not folder.is_dir():
        packed = folder.is_file() and folder.suffix in ARCHIVES
        remedy = "Unpack it first and name the folder." if packed else "Correct the path."
        got = f"{folder}, a file" if folder.is_file() else f"{folder}, which is not there"
        raise ConfigError(where="FOLDER", field="path", got=got, expected="the folder of a data set", remedy=remedy)
    top = folder.absolute()
    files = sorted(f"{top.name}/{path}" for path in _walk(top))
    if strange := [file for file in files if not _is_text(file)]:
        remedy = "Rename it: a datalist is UTF-8 text."
        raise ConfigError(where=str(top), field="file", got=ascii(strange[0]), expected="a UTF-8 name", remedy=remedy)
    return tuple(files)


def _walk(top: Path) -> Iterator[str]:
    seen: set[str] = set()
    for place, folders, files in os.walk(top, followlinks=True, onerror=_raise):
        here = Path(place).relative_to(top)
        real = os.path.realpath(place)
        if real in seen or len(here.parts) >= MAX_DEPTH:
            folders.clear()
        if real in seen:
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from ((here / f).as_posix() for f in files if f.endswith(SUFFIXES) and not f.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_cases(layout: Layout, files: Sequence[str], folder: Path) -> Found:
    """The cases of ``layout`` among ``files`` (those of list_files).

    Raises ConfigError for two files of one case.
    """
    labelled, unlabelled, left_out = [], [], Counter()
    seen: dict[str, FoundCase] = {}
    for part in layout.parts:
        for case in _cases(part, files, folder, left_out):
            if case.id in seen:
                raise _twice(folder, case.id, seen[case.id].image, case.image)
            seen[case.id] = case
            if layout.left_out and re.fullmatch(layout.left_out[0], case.id):
                left_out[layout.left_out[1]] += 1
            else:
                (labelled if case.label else unlabelled).append(case)
    return Found(layout=layout, labelled=tuple(labelled), unlabelled=tuple(unlabelled), left_out=dict(left_out))


def _cases(part: Part, files: Sequence[str], folder: Path, left_out: Counter) -> list[FoundCase]:
    images, labels = _by_id(part.image, files, folder), _by_id(part.label, files, folder)
    alone = len(set(labels) - set(images))
    if alone:
        left_out["labels without an image"] += alone
    return [FoundCase(id=i, image=image, label=labels.get(i), split=part.split) for i, image in sorted(images.items())]


def _by_id(pattern: str | None, files: Sequence[str], folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files if pattern else ():
        match = re.search(pattern, file)
        if match is None:
            continue
        name = file.split("/", 1)[1]
        if (case := match["id"]) in found:
            raise _twice(folder, case, found[case], name)
        found[case] = name
    return found


def _twice(folder: Path, case: str, first: str, second: str) -> ConfigError:
    return ConfigError(
        where=str(folder),
        field=f"case {case}",
        got=f"{first} and {second}",
        expected="one file",
        remedy="Remove one of them, or name the folder that holds one copy of the data set.",
    )
