"""Which values a label file holds, and how often: without sorting its voxels, which takes ten times as long."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedpartial.labels import MAX_RAW_VALUE

CHUNK_VOXELS = 2**21


def count_values(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values of ``array`` (any shape) in ascending order, and the number of voxels of each.

    Values that no label may have (negative, above 65535, fractions, NaN) are counted too.
    """
    counts = np.zeros(MAX_RAW_VALUE + 1, dtype=np.int64)
    for chunk in chunks(array):
        if not _countable(chunk):
            return np.unique(array, return_counts=True)
        found = np.bincount(chunk.astype(np.intp))
        counts[: found.size] += found
    values = np.flatnonzero(counts)
    return values, counts[values]


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """All voxels, some at a time, as one axis, in the order in which they lie in memory."""
    flat = array.ravel(order="K")
    for start in range(0, flat.size, CHUNK_VOXELS):
        yield flat[start : start + CHUNK_VOXELS]


def _countable(values: np.ndarray) -> bool:
    low, high = values.min(), values.max()
    inside = bool(low >= 0) and bool(high <= MAX_RAW_VALUE)
    return inside and (values.dtype.kind in "iu" or bool((np.rint(values) == values).all()))
