"""Large buffers go back to the operating system as soon as they are free, where the C library is glibc.

FLARE packs and unpacks tensors in a thread for each site. glibc serves each of these threads from an arena of its own;
once it has freed a block of up to 32 MiB it takes blocks of that size from there too, and the arenas keep what is free.
With the 119 MiB of the paper's network that was more than the messages themselves (docs/performance.md). With a
threshold set by hand every larger block is memory of its own, which ends with it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Names in malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD."""
LARGE = 2**20
LARGEST = 32 * 2**20
"""To where glibc raises its threshold by itself; it cannot be told to go on doing so."""


@contextmanager
def large_buffers_returned() -> Iterator[None]:
    """For the process, while this lasts. Afterwards blocks are reused as before, which is faster for a network."""
    _set(MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        _set(MMAP_THRESHOLD, LARGEST)
        _set(TRIM_THRESHOLD, 2 * LARGEST)


def _set(option: int, value: int) -> bool:
    """Whether there was something to set: other C libraries do not know mallopt."""
    try:
        return bool(ctypes.CDLL(None).mallopt(option, value))
    except (OSError, AttributeError):
        return False
