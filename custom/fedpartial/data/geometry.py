"""Moving voxels between grids: one resampling for images, labels, logits and random rotations.

Voxel centres have integer coordinates; an affine maps them to mm. MONAI's SpatialResample does the same
arithmetic, but builds the coordinates of the whole volume at once (12 bytes a voxel) and costs seconds of
import in every process; here slabs of the output are computed one after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

SLAB_VOXELS = 2**20
EDGE_TOLERANCE = 1e-3
NEAR = 1e-3
"""Rows so close to a point belong to it: its coordinate is rounded to float32 when it is interpolated."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where voxels lie: shape (H W D) and the 4x4 affine from voxel indices to mm (R A S)."""

    shape: tuple[int, int, int]
    affine: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Rows start:stop of the output: values (C h W D) and which voxels lie inside the source (h W D)."""

    start: int
    stop: int
    values: Tensor
    inside: Tensor


def voxel_matrix(from_affine: np.ndarray, to_affine: np.ndarray) -> np.ndarray:
    """4x4: indices of the ``to`` grid -> indices of the ``from`` grid."""
    return np.linalg.solve(np.asarray(from_affine, dtype=np.float64), np.asarray(to_affine, dtype=np.float64))


def resample(
    array: Tensor,
    matrix: np.ndarray,
    shape: Sequence[int],
    mode: Literal["bilinear", "nearest"],
    *,
    before: Callable[[int, int], None] | None = None,
    rows: int | None = None,
) -> Iterator[Slab]:
    """Values of ``array`` (C H W D) at ``matrix`` @ (every index of ``shape``), slab by slab.

    mode: "bilinear" is trilinear in 3D (torch's name). before: called with the rows (start, stop) of each slab before
    they are computed. rows: at most so many in a slab. Points up to half a voxel beyond the outermost centres take the
    value of the edge; ``inside`` is False farther out.
    """
    source = array.float()[None]
    for start, stop in slab_rows(shape, rows):
        if before:
            before(start, stop)
        points = _points(matrix, (start, stop), shape, array.device)
        first, second, third = (inside(p, n) for p, n in zip(points, array.shape[1:], strict=True))
        grid = torch.empty((stop - start, *shape[1:], 3), device=array.device)
        for axis, (p, n) in enumerate(zip(points, array.shape[1:], strict=True)):
            grid[..., 2 - axis] = (2 * p + 1) / n - 1
        values = grid_sample(source, grid[None], mode=mode, padding_mode="border", align_corners=False)[0]
        within = (first & second & third).expand(grid.shape[:3])
        yield Slab(start=start, stop=stop, values=values, inside=within)


def _points(matrix: np.ndarray, rows: tuple[int, int], shape: Sequence[int], device: torch.device) -> list[Tensor]:
    """Source coordinate along each axis, (h W D) each, or 1 instead of an axis along which it does not change.

    Between grids with parallel axes three lines are computed instead of three volumes, with the same last bit.
    """
    ranges = (range(*rows), range(shape[1]), range(shape[2]))
    index = [torch.arange(r.start, r.stop, dtype=torch.float64, device=device) for r in ranges]
    lines = index[0][:, None, None], index[1][None, :, None], index[2][None, None, :]
    none = torch.zeros((1, 1, 1), dtype=torch.float64, device=device)
    return [
        sum((float(f) * line for f, line in zip(m[:3], lines, strict=True) if f), none) + float(m[3])
        for m in matrix[:3]
    ]


def slab_rows(shape: Sequence[int], most: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, stop) of slabs of SLAB_VOXELS voxels, and of ``most`` rows."""
    rows = max(1, min(SLAB_VOXELS // max(1, shape[1] * shape[2]), most or shape[0]))
    for start in range(0, shape[0], rows):
        yield start, min(start + rows, shape[0])


def inside(points: Tensor, size: int) -> Tensor:
    """Which coordinates along an axis lie in its voxels, half a voxel around the centres."""
    return (points >= -0.5 - EDGE_TOLERANCE) & (points <= size - 0.5 + EDGE_TOLERANCE)


def rows_needed(line: Sequence[float], axis: int, size: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """First and last source row (n,) from which each row along ``axis`` of ``shape`` is interpolated.

    line: the row of the 4x4 matrix that gives the coordinate along the source's axis, which has ``size`` rows.
    """
    ends = [(0.0, line[a] * (shape[a] - 1)) for a in range(3) if a != axis]
    along = line[3] + line[axis] * np.arange(shape[axis])
    low, high = (along + sum(pick(pair) for pair in ends) for pick in (min, max))
    return tuple(np.clip(rows, 0, size - 1).astype(int) for rows in (np.floor(low - NEAR), np.ceil(high + NEAR)))


def rotation_zoom(angles: Sequence[float], zoom: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """3x3: offsets (voxels) from a patch's centre -> offsets in the volume. ``zoom`` > 1 magnifies.

    The rotation by ``angles`` (radians, about each axis) is rigid in mm, whatever the spacing.
    """
    spacing = np.diag(np.asarray(spacing_mm, dtype=np.float64))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        rotation = rotation @ _rotation(axis, angle)
    return np.linalg.solve(spacing, rotation @ spacing) / zoom


def _rotation(axis: int, angle: float) -> np.ndarray:
    first, second = [a for a in range(3) if a != axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def bounding_box(matrix: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last source index (3,) needed to resample ``shape`` through the 4x4 ``matrix``."""
    corners = np.array([(*c, 1.0) for c in itertools.product(*((0, n - 1) for n in shape))])
    points = (corners @ matrix.T)[:, :3]
    return np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int) + 1
