"""Label maps that say what they mean: class names in the NIfTI header itself, where no renaming loses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nibabel

KEY = "fedpartial"
CODE = "comment"
"""The kind of NIfTI header extension: text for everyone, which other programs pass over."""


def embed_names(image: nibabel.Nifti1Image, names: Mapping[int, str], **facts: object) -> None:
    """Give a label map's header its classes (value -> name, without background) and further facts, as JSON."""
    from nibabel.nifti1 import Nifti1Extension

    content = {KEY: {"labels": {str(value): name for value, name in names.items()}, **facts}}
    image.header.extensions.append(Nifti1Extension(CODE, json.dumps(content).encode()))


def read_facts(path: Path) -> dict | None:
    """What ``embed_names`` wrote into a file's header; None for a label map of somebody else."""
    import nibabel

    for extension in getattr(nibabel.load(path).header, "extensions", ()):
        try:
            content = json.loads(bytes(extension.get_content()).rstrip(b"\0"))
        except ValueError:
            continue
        if isinstance(content, dict) and isinstance(content.get(KEY), dict):
            return content[KEY]
    return None


def read_names(path: Path) -> dict[int, str] | None:
    """Class names by value of a label map, None where its header names none."""
    labels = (read_facts(path) or {}).get("labels")
    if not isinstance(labels, dict) or not all(value.isdecimal() for value in labels):
        return None
    return {int(value): str(name) for value, name in labels.items()}


def is_label_map(path: Path) -> bool:
    """Whether this project has written it; a file that cannot be read is none, so that it is named later."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return read_names(path) is not None
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError):
        return False
