"""From a folder to its cases: which layout it has, and what is wrong where it has none or another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedpartial.data.file_names import LABELS, stem_of
from fedpartial.data.label_names import is_label_map
from fedpartial.datasets.catalogue import AUTO, LAYOUTS, get_layout
from fedpartial.datasets.dataset_json import FILE
from fedpartial.datasets.folder import find_cases, list_files
from fedpartial.datasets.layout import Found, Layout
from fedpartial.errors import ConfigError

OWN = "label maps written by 'fedpartial predict'"
"""Why files are left out."""


def _is_prediction(path: Path) -> bool:
    """A label map of ``fedpartial predict``: by its name first, so that not every header of a data set is read."""
    return stem_of(path.name).endswith(LABELS) and is_label_map(path)


def find_data_set(name: str, folder: Path) -> Found:
    """The cases of ``folder`` in the layout called ``name``, or with "auto" in the one that it has.

    Raises ConfigError for a folder of another layout, of none or of several, and for one without a labelled case.
    """
    chosen = None if name == AUTO else get_layout(name)
    listed = list_files(folder)
    files = tuple(file for file in listed if not _is_prediction(folder.absolute().parent / file))
    if not files:
        got = f"nothing but {OWN}" if listed else "no .nii or .nii.gz file"
        remedy = "Is it the right folder, and unpacked? DICOM has to be converted to NIfTI first (dcm2niix)."
        raise _error(folder, "files", got, "a data set of NIfTI files", remedy)
    if chosen is None:
        chosen = _recognised(files, folder)
    found = find_cases(chosen, files, folder)
    if not found.labelled:
        raise _nothing_found(found, files, folder)
    predictions = {OWN: len(listed) - len(files)} if len(listed) > len(files) else {}
    return replace(found, left_out={**found.left_out, **predictions})


def resembles(found: Found, folder: Path) -> Layout | None:
    """A layout with the same files whose marks the folder bears, while it does not bear those of its own."""
    files = [f"{folder.absolute().name}/{case.image}" for case in found.labelled]
    if found.layout.marks is None or _has_marks(found.layout, files, folder):
        return None
    return next((layout for layout in LAYOUTS.values() if _has_marks(layout, files, folder)), None)


def _recognised(files: Sequence[str], folder: Path) -> Layout:
    for fits in (_has_pairs, _has_marks, _has_parts):
        candidates = _most_special([layout for layout in LAYOUTS.values() if fits(layout, files, folder)])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = " and ".join(layout.name for layout in candidates)
            remedy = f"Name the folder of one, or say which: 'fedpartial datalist {candidates[0].name} ...'"
            raise _error(folder, "layout", f"what looks like {names}", "one layout", remedy)
    known = "; ".join(f"{layout.name}: {layout.looks_like}" for layout in LAYOUTS.values())
    example = ", ".join(files[:3])
    remedy = "See 'fedpartial datalist --list', or put the files into images/ and labels/ with equal names."
    raise _error(folder, "layout", f"{len(files)} NIfTI files such as {example}", f"one of: {known}", remedy)


def _most_special(candidates: list[Layout]) -> list[Layout]:
    """Data sets with a name, else those with a dataset.json, else any."""
    for kind in (lambda layout: layout.is_published, lambda layout: layout.has_json):
        if special := [layout for layout in candidates if kind(layout)]:
            return special
    return candidates


def _has_pairs(layout: Layout, files: Sequence[str], folder: Path) -> bool:
    if layout.has_json and not (folder / FILE).is_file():
        return False
    if layout.marks and not _has_marks(layout, files, folder):
        return False
    try:
        return bool(find_cases(layout, files, folder).labelled)
    except ConfigError:  # a case twice: it is this layout, and finding its cases will say so
        return True


def _has_marks(layout: Layout, files: Sequence[str], folder: Path) -> bool:
    return layout.marks is not None and any(re.search(layout.marks, file) for file in files)


def _has_parts(layout: Layout, files: Sequence[str], folder: Path) -> bool:
    """A data set with a name of which something is missing."""
    patterns = [pattern for part in layout.parts for pattern in (part.image, part.label) if pattern]
    return layout.is_published and any(re.search(pattern, file) for pattern in patterns for file in files)


def _nothing_found(found: Found, files: Sequence[str], folder: Path) -> ConfigError:
    layout = found.layout
    images, alone = len(found.unlabelled), found.left_out.get("labels without an image", 0)
    expected = f"{layout.title}: {layout.looks_like}"
    if alone and not images:
        return _error(folder, "images", f"{alone} labels and no image of them", expected, layout.hint)
    if images or alone:
        got = f"{images} images and {alone} labels, none of which belong together"
        return _error(folder, "cases", got, expected, "Are labels missing, or named in another way?")
    others = _most_special([other for other in LAYOUTS.values() if _has_pairs(other, files, folder)])
    remedy = (
        f"It looks like {' or '.join(other.name for other in others)}."
        if others
        else "See 'fedpartial datalist --list'."
    )
    return _error(folder, "layout", f"no case of {layout.name}", expected, remedy)


def _error(folder: Path, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(folder), field=field, got=got, expected=expected, remedy=remedy)
