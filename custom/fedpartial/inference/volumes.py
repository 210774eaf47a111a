"""How much of every class there is: millilitres, and the table of a folder of label maps."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fedpartial.inference.label_file import replacing

VOLUMES = "volumes.csv"
MM3_PER_ML = 1000.0
DIGITS = 3


def volumes_ml(label: np.ndarray, affine: np.ndarray, names: Mapping[int, str]) -> dict[str, float]:
    """Volume of each class (value -> name) of labels (H W D), with a 4x4 affine to mm; of masks (C H W D) that may
    overlap, value c is mask c."""
    counts = _counts(label, names) if label.ndim == 3 else {c: np.count_nonzero(label[c]) for c in names}
    return {name: round(counts[value] * voxel_ml(affine), DIGITS) for value, name in names.items()}


def voxel_ml(affine: np.ndarray) -> float:
    """A voxel's volume; also that of a rotated or sheared one."""
    return abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / MM3_PER_ML


def _counts(label: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Voxels by value. Slice by slice, because bincount copies what it is given to eight bytes a voxel."""
    size = 1 + max((*names, int(label.max(initial=0))))
    return sum((np.bincount(part.ravel(), minlength=size) for part in label), start=np.zeros(size, dtype=np.int64))


def save_volumes(path: Path, rows: Mapping[str, Mapping[str, float]], classes: Iterable[str]) -> None:
    """One row for each case: its name, then ml of each class; empty where a case has no such class."""
    columns = tuple(dict.fromkeys((*classes, *(name for volumes in rows.values() for name in volumes))))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("name", *(f"{name}_ml" for name in columns)))
        table.writerows((case, *(volumes.get(name, "") for name in columns)) for case, volumes in rows.items())
