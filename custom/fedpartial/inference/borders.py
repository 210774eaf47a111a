"""The highest of interpolated scores, interpolated only where labels meet.

A linearly interpolated score is a mixture of the scores at the corners of its cell, with weights that are not
negative. Where all eight corners have the same highest channel, every mixture of them has it too. So most voxels of a
scan, inside of organs and outside, take the label of their cell, and only those in cells on a border are interpolated:
the labels are those of the interpolated scores, but for ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.geometry import inside
from fedpartial.data.preprocess import highest

MIXED = 255
"""The label of a cell whose corners differ; label spaces have fewer channels."""


def highest_between(
    scores: Tensor, matrix: np.ndarray, shape: Sequence[int], axes: tuple[int, int, int]
) -> Iterator[Tensor]:
    """uint8 (W D), the labels of each row of ``shape`` (H W D): 0 farther than half a voxel outside of the scores.

    scores: (C *S), at most 255 channels. matrix: 4x4, indices of ``shape`` -> indices of S. axes: ``axes_between`` of
    the two grids (data/parallel.py), which must be parallel.
    """
    ordered = scores.float().permute(0, *(1 + a for a in axes))
    lines = [_Line(matrix[a], target, n, size) for target, (a, n, size) in enumerate(_sizes(ordered, axes, shape))]
    cells = _cells(highest(ordered).to(torch.uint8))
    rows, columns, depths = (line.to(scores.device) for line in lines)
    within = columns.inside[:, None] & depths.inside
    for row in range(shape[0]):
        if not rows.inside[row]:
            yield torch.zeros(tuple(shape[1:]), dtype=torch.uint8, device=scores.device)
            continue
        plane = cells[rows.first[row]].index_select(0, columns.first).index_select(1, depths.first)
        border = (plane.flatten() == MIXED).nonzero().flatten()
        if len(border):
            between = ordered[:, rows.first[row]].lerp(ordered[:, rows.second[row]], rows.weight[row])
            plane.view(-1)[border] = highest(_at(between, columns, depths, border)).to(torch.uint8)
        yield plane.mul_(within)


def _sizes(ordered: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    return zip(axes, shape, ordered.shape[1:], strict=True)


class _Line:
    """Where the voxels of one axis of the target lie on its axis of the source: between which two, and how far."""

    def __init__(self, line: np.ndarray, target: int, count: int, size: int):
        points = torch.arange(count, dtype=torch.float64) * float(line[target]) + float(line[3])
        self.inside = inside(points, size)
        points = points.clamp(0, size - 1)
        self.first = points.long()
        self.second = (self.first + 1).clamp(max=size - 1)
        self.weight = (points - self.first).float()

    def to(self, device: torch.device) -> _Line:
        for name, values in vars(self).items():
            setattr(self, name, values.to(device))
        return self


def _cells(labels: Tensor) -> Tensor:
    """The label that all eight corners of a cell have, or MIXED: uint8 (H W D) -> (H W D), a cell by its first corner.

    Beyond the last voxel of an axis lies that voxel again.
    """
    low = high = labels
    for axis, size in enumerate(labels.shape):
        following = torch.arange(1, size + 1, device=labels.device).clamp_(max=size - 1)
        low = torch.minimum(low, low.index_select(axis, following))
        high = torch.maximum(high, high.index_select(axis, following))
    return torch.where(low == high, low, MIXED)


def _at(plane: Tensor, columns: _Line, depths: _Line, points: Tensor) -> Tensor:
    """Scores (C n) between those of a plane (C *S) at flat indices of the target's plane."""
    size = plane.shape[2]
    corners = plane.flatten(1).T.contiguous()  # all channels of a voxel lie together
    i, j = points // len(depths.first), points % len(depths.first)
    weight = columns.weight[i, None]
    sides = [
        corners[columns.first[i] * size + k].lerp_(corners[columns.second[i] * size + k], weight)
        for k in (depths.first[j], depths.second[j])
    ]
    return sides[0].lerp_(sides[1], depths.weight[j, None]).T
