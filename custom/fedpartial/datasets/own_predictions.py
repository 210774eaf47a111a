"""Label maps that ``fedpartial predict`` has written among the files of a data set: neither images nor labels of it."""

from __future__ import annotations

from pathlib import Path

from fedpartial.data.file_names import LABELS, stem_of
from fedpartial.data.label_names import read_names


def is_own_prediction(path: Path) -> bool:
    """By its name, so that not every header is read, and then by its header. A file that cannot be read is none:
    ``fedpartial check`` names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not stem_of(path.name).endswith(LABELS):
        return False
    try:
        return read_names(path) is not None
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError):
        return False
