"""What the files of volumes are called: NIfTI endings, and the ending of the label maps that this project writes."""

from __future__ import annotations

SUFFIXES = (".nii.gz", ".nii")
LABELS = "_labels"
"""Ends the stem of a label map: ct_labels.nii.gz is that of ct.nii.gz."""


def suffix_of(name: str) -> str:
    """The NIfTI ending of a file name, "" where it has none."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(name: str) -> str:
    """A file name without its NIfTI ending."""
    return name.removesuffix(suffix_of(name))
