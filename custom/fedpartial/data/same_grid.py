"""Whether a label lies on the grid of its image: headers that differ by rounding are one grid, a shift is a fault."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.preprocess import Volume

GRID_TOLERANCE = 0.1
"""Part of the smallest voxel edge by which a label's voxels may lie beside the image's: programs round headers."""


def off_grid(label_path: Path, label: Volume, image_path: Path, image: Volume) -> list[Fault]:
    """Whether label and image lie on one grid: one shape, and no voxel moved by more than GRID_TOLERANCE edges."""
    remedy, kind = f"Resample the label onto {image_path.name}.", "label beside the image"
    if image.array.shape != label.array.shape:
        expected = f"the image's {image.array.shape}"
        return [data_fault(label_path, "shape", label.array.shape, expected, remedy, "label and image of two shapes")]
    if not (distance := _distance_mm(image, label)):
        return []
    if _default_grid(label.affine):
        kind, remedy = (
            "label without a header of its own",
            (
                "It says 1 mm and no orientation, as that of LiTS case 53 does. If a viewer shows that its voxels are"
                f" the image's one by one, save it with the affine of {image_path.name}; else leave the case out."
            ),
        )
    got, expected = f"a grid up to {distance:.3g} mm away", f"the image's, within {_tolerance_mm(image):.2g} mm"
    return [data_fault(label_path, "affine", got, expected, remedy, kind)]


def is_same_grid(image: Volume, label: Volume) -> bool:
    """One shape, and no voxel of the label more than GRID_TOLERANCE of the smallest voxel edge from the image's."""
    return not _distance_mm(image, label)


def _distance_mm(image: Volume, label: Volume) -> float:
    """The largest distance between a voxel of the label and the image's of the same index, in mm; 0 within tolerance.

    Volumes of two shapes are infinitely far apart.
    """
    if image.array.shape != label.array.shape:
        return float("inf")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in image.array.shape))])
    distance = float(np.linalg.norm((corners @ (image.affine - label.affine).T)[:, :3], axis=1).max())
    return distance if distance > _tolerance_mm(image) else 0.0


def _tolerance_mm(image: Volume) -> float:
    return GRID_TOLERANCE * float(np.linalg.norm(image.affine[:3, :3], axis=0).min())


def _default_grid(affine: np.ndarray) -> bool:
    """Whether it is what a program writes that knows neither spacing nor orientation."""
    return bool((np.abs(affine[:3, :3]) == np.eye(3)).all())
