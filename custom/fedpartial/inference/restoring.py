"""From rows of scores to labels on the grid of the file, while the rows come: what restore_logits does at once.

The axes of a prepared grid are parallel to the scan's, so every row of the file's grid lies between two rows of scores
and can be decided as soon as both are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.geometry import Grid, Slab, resample, rows_needed, voxel_matrix
from fedpartial.data.parallel import axes_between, resample_parallel
from fedpartial.data.preprocess import highest
from fedpartial.inference.borders import highest_between
from fedpartial.inference.sliding import Rows


def restore_rows(
    rows: Iterable[Rows], source: Grid, target: Grid, *, axis: int, decide: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """uint8 (H W D), or (K H W D) if ``decide`` gives masks, on ``target``: restore_logits of all rows together.

    rows: scores on the grid ``source``, in ascending order along its ``axis``. decide: (C h W D) -> (h W D) or
    (K h W D), voxel by voxel. Grids of any directions are right; little memory needs parallel ones.
    """
    restoring = _Restoring(source, target, axis, decide)
    for piece in rows:
        restoring.take(piece)
    return restoring.labels


class _Restoring:
    """The labels so far, and the rows of scores that undecided voxels still need."""

    def __init__(self, source: Grid, target: Grid, axis: int, decide: Callable[[Tensor], Tensor]):
        matrix = voxel_matrix(source.affine, target.affine)
        self.shape, self.decide = target.shape, decide
        self.axis = int(np.argmax(np.abs(matrix[axis, :3]) * target.shape))
        self.lowest, self.highest = rows_needed(matrix[axis], self.axis, source.shape[axis], target.shape)
        self.matrix = matrix[_first(axis)][:, _first(self.axis)]
        self.descending = bool(self.matrix[0, 0] < 0)
        self.decided, self.kept, self.start = 0, None, 0
        self.labels: np.ndarray | None = None

    def take(self, rows: Rows) -> None:
        self.kept = rows.scores if self.kept is None else _joined(self.kept, rows.scores)
        complete = self.start + self.kept.shape[1]
        ready = int(np.searchsorted(self._in_order(self.highest), complete))
        if ready > self.decided:
            self._decide(self._span(self.decided, ready))
            self.decided = ready
        needed = self._in_order(self.lowest)[ready] if ready < len(self.lowest) else complete
        drop = max(0, min(int(needed), complete) - self.start)
        self.kept, self.start = self.kept[:, drop:].clone(), self.start + drop

    def _in_order(self, of_row: np.ndarray) -> np.ndarray:
        """Values by row of the target in the order in which rows are decided; ascending then."""
        return of_row[::-1] if self.descending else of_row

    def _span(self, begin: int, end: int) -> range:
        """Rows of the target, decided as numbers begin to end."""
        size = len(self.highest)
        return range(size - end, size - begin) if self.descending else range(begin, end)

    def _decide(self, span: range) -> None:
        matrix = self.matrix.copy()
        matrix[:3, 3] += matrix[:3, 0] * span.start
        matrix[0, 3] -= self.start
        others = [n for a, n in enumerate(self.shape) if a != self.axis]
        for row, label in self._labels(matrix, (len(span), *others)):
            if self.labels is None:
                self.labels = self._nothing_yet(label.shape[:-3])
            rows = slice(span.start + row, span.start + row + label.shape[-3])
            np.moveaxis(self.labels, self.axis - 3, -3)[..., rows, :, :] = label

    def _labels(self, matrix: np.ndarray, shape: tuple[int, int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Labels or masks, uint8 (h W D) or (K h W D), and the row where they start."""
        axes = axes_between(matrix, shape)
        if axes and self.decide is highest:
            for row, label in enumerate(highest_between(self.kept, matrix, shape, axes)):
                yield row, label[None].cpu().numpy()
            return
        for slab in _interpolated(self.kept.contiguous(), matrix, shape):
            yield slab.start, (self.decide(slab.values) * slab.inside).to(torch.uint8).cpu().numpy()

    def _nothing_yet(self, masks: tuple[int, ...]) -> np.ndarray:
        """What the labels come into: a row lies in one piece, which is written, and saved, several times faster."""
        walked, *others = (self.shape[a] for a in _first(self.axis)[:3])
        return np.moveaxis(np.empty((*masks, walked, *others), dtype=np.uint8), -3, self.axis - 3)


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """All rows of two (C h *S), with the channels of a voxel together in memory as theirs are."""
    return torch.cat([one.movedim(0, -1), other.movedim(0, -1)]).movedim(-1, 0)


def _interpolated(scores: Tensor, matrix: np.ndarray, shape: tuple[int, int, int]) -> Iterator[Slab]:
    axes = axes_between(matrix, shape)
    if axes is None:
        return resample(scores, matrix, shape, "bilinear")
    return resample_parallel(scores, matrix, shape, axes)


def _first(axis: int) -> list[int]:
    """Indices that put one of three axes first and leave the fourth coordinate last."""
    return [axis, *(a for a in range(3) if a != axis), 3]
