"""What becomes of freed memory, where the C library is glibc; elsewhere nothing is changed.

FLARE packs and unpacks tensors in a thread for each site, glibc serves every thread from an arena of its own, and what
these kept was more than the messages themselves. With a threshold set by hand every larger block is memory of its own,
which ends with it. (Training gains time by the opposite and loses more memory than that is worth: docs/performance.md.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names in malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD."""
LARGE = 2**20
LARGEST = 32 * 2**20
"""To where glibc raises its threshold by itself; it cannot be told to go on doing so."""


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """For the process, while this lasts: a freed block of a mebibyte or more goes back to the system at once."""
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
