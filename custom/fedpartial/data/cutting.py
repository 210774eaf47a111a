"""Patches out of prepared volumes, straight or turned; what lies outside of the volume is air and label 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from fedpartial.data.geometry import bounding_box
from fedpartial.data.parallel import axes_between, resample_parallel
from fedpartial.data.stored_case import StoredCase

ROWS = 16
"""Of a patch, turned at once: their coordinates stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """image float32 (H W D), label uint8 (H W D)."""

    image: np.ndarray
    label: np.ndarray


def cut(array: np.ndarray, start: np.ndarray, shape: Sequence[int], outside: np.generic) -> np.ndarray:
    """Voxels start : start + shape of an array (H W D), of the type of ``outside``, the value of voxels not in it."""
    low, high = np.maximum(start, 0), np.minimum(start + shape, array.shape)
    if (high - low == shape).all():
        return np.array(array[_slices(low, high)], dtype=outside.dtype)
    result = np.full(shape, outside)
    if (high > low).all():
        result[_slices(low - start, high - start)] = array[_slices(low, high)]
    return result


def cut_patch(case: StoredCase, start: np.ndarray, shape: Sequence[int], air: float) -> Patch:
    """Voxels start : start + shape of a case."""
    return Patch(image=cut(case.image, start, shape, np.float32(air)), label=cut(case.label, start, shape, np.uint8(0)))


def cut_turned(case: StoredCase, start: np.ndarray, turn: np.ndarray, shape: Sequence[int], air: float) -> Patch:
    """The patch start : start + shape turned and zoomed about its centre, from the box of the volume that it needs.

    turn: 3x3, offsets in the patch -> offsets in the volume. Images are interpolated linearly, labels by nearest
    neighbour. The papers' code turns whole volumes before cropping; the result is the same except for the interpolation
    at the volume's edge, and only the box is read. geometry.resample gives the same values more slowly: here image and
    label share their coordinates, and a zoom without a rotation goes axis by axis.
    """
    half = (np.asarray(shape) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, start + half - turn @ half
    way = _zoomed if axes_between(matrix, shape) == (0, 1, 2) else _rotated
    return way(case, matrix, shape, air)


def _zoomed(case: StoredCase, matrix: np.ndarray, shape: Sequence[int], air: float) -> Patch:
    """Axis by axis."""
    low, high = bounding_box(matrix, shape)
    box, matrix = cut_patch(case, low, tuple(high - low), air), _moved(matrix, low)
    slabs = resample_parallel(torch.from_numpy(box.image)[None], matrix, shape, (0, 1, 2))
    places = [np.rint(matrix[a, a] * np.arange(n) + matrix[a, 3]).astype(int) for a, n in enumerate(shape)]
    nearest = [np.clip(p, 0, n - 1) for p, n in zip(places, box.label.shape, strict=True)]
    return Patch(image=torch.cat([slab.values[0] for slab in slabs]).numpy(), label=box.label[np.ix_(*nearest)])


def _rotated(case: StoredCase, matrix: np.ndarray, shape: Sequence[int], air: float) -> Patch:
    """From the part of the box that lies in the volume; grid_sample has 0 around it, so air is 0 meanwhile."""
    low, high = bounding_box(matrix, shape)
    low, high = np.maximum(low - 1, 0), np.minimum(high + 1, case.image.shape)  # a voxel more: coordinates are rounded
    turned, moved = torch.full(tuple(shape), air), torch.zeros(tuple(shape), dtype=torch.uint8)
    if (high <= low).any():
        return Patch(image=turned.numpy(), label=moved.numpy())
    box = cut_patch(case, low, tuple(high - low), air)
    image, label = torch.from_numpy(box.image).sub_(air)[None, None], torch.from_numpy(box.label).float()[None, None]
    for rows, grid in _coordinates(_moved(matrix, low), box.image.shape, shape):
        turned[rows] += grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]
        moved[rows] = grid_sample(label, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0]
    return Patch(image=turned.numpy(), label=moved.numpy())


def _moved(matrix: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The matrix to the indices of a box that begins at ``low``."""
    moved = matrix.copy()
    moved[:3, 3] -= low
    return moved


def _coordinates(matrix: np.ndarray, source: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the target, and where they lie in the source as grid_sample counts: (1 h W D 3), last axis first."""
    scale = 2 / np.asarray(source)
    along, corner = matrix[:3, :3] * scale[:, None], (matrix[:3, 3] + 0.5) * scale - 1
    index = np.indices((ROWS, *shape[1:])).reshape(3, -1)
    first = torch.from_numpy((along @ index + corner[:, None])[::-1].T.astype(np.float32))
    first = first.reshape(1, ROWS, *shape[1:], 3)
    for start in range(0, shape[0], ROWS):
        rows = slice(start, min(start + ROWS, shape[0]))
        step = torch.from_numpy((start * along[::-1, 0]).astype(np.float32))
        yield rows, first[:, : rows.stop - start] + step


def _slices(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))
