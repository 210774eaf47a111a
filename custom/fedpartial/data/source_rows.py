"""A file's voxels as float32 for resampling, of which only the rows in use are in memory.

A CT of 512 x 512 x 600 is 315 MB as stored and 629 MB as float32. Interpolation depends to the last bit on the size of
what it reads from, so that a cut-out would change every prepared case; therefore the array has its full size in address
space, and its pages are filled before they are read and given back after.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.geometry import rows_needed

MOST_VOXELS = 2**23
"""About as many voxels of the source are in memory at once; a coarse grid would else need all for one slab."""


class SourceRows:
    """``tensor`` (1 H W D) has an array's values in the rows that ``need`` was last called for.

    Ask for ``rows_at_once`` rows of the grid at a time.
    """

    def __init__(self, array: np.ndarray, matrix: np.ndarray, shape: Sequence[int]):
        """matrix: indices of the grid of ``shape``, whose rows are asked for in order, -> indices of ``array``."""
        self.axis = int(np.argmax(np.abs(matrix[:3, 0]) / array.shape))
        self.lowest, self.highest = rows_needed(matrix[self.axis], 0, array.shape[self.axis], shape)
        # The rows first, so that their pages lie together; the others as in the array, so that planes are copied well.
        order = sorted(range(3), key=lambda a: (a != self.axis, -abs(array.strides[a])))
        self.source, self.filled = array.transpose(order), range(0)
        self.rows_at_once = max(1, MOST_VOXELS * shape[0] // array.size)
        self.memory = mmap.mmap(-1, 4 * array.size)
        self.rows = np.frombuffer(self.memory, dtype=np.float32).reshape(self.source.shape)
        self.tensor: Tensor = torch.from_numpy(self.rows.transpose(np.argsort(order)))[None]

    def need(self, start: int, stop: int) -> None:
        """Have the values for rows start:stop of the grid, and forget those of other rows."""
        wanted = range(int(self.lowest[start:stop].min()), int(self.highest[start:stop].max()) + 1)
        for part in _without(self.filled, wanted):
            self._forget(part)
        for part in _without(wanted, self.filled):
            rows, source = self.rows[part.start : part.stop], self.source[part.start : part.stop]
            for plane in range(rows.shape[1]):  # fits the processor's cache, in which it is transposed
                rows[:, plane] = source[:, plane]
        self.filled = wanted

    def _forget(self, part: range) -> None:
        size, page = self.rows.strides[0], mmap.PAGESIZE
        begin, end = -(-part.start * size // page) * page, part.stop * size // page * page
        # Where a system has no such advice, the rows just stay.
        if begin < end and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _without(one: range, other: range) -> list[range]:
    """The parts of a range before and after another."""
    parts = [range(one.start, min(one.stop, other.start)), range(max(one.start, other.stop), one.stop)]
    return [part for part in parts if part] if other else [one][: bool(one)]
