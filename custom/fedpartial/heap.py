"""What becomes of freed memory, where the C library is glibc; elsewhere nothing is changed.

A network frees and asks for the same large blocks all the time, and glibc gives each back to the system at once, which
hands it out again full of zeros: a quarter of a step on a CPU at the paper's patch. So training keeps them. The server
does the opposite: FLARE packs and unpacks tensors in a thread for each site, glibc serves every thread from an arena of
its own, and what these kept was more than the messages themselves (docs/performance.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names in malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX."""
LARGE = 2**20
LARGEST = 32 * 2**20
"""To where glibc raises its threshold by itself; it cannot be told to go on doing so."""
MAPPINGS = 65536
"""glibc's own M_MMAP_MAX."""
NEVER = 2**31 - 1


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """For the process, while this lasts: a freed block of a mebibyte or more goes back to the system at once."""
    _set(MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        _set(MMAP_THRESHOLD, LARGEST)
        _set(TRIM_THRESHOLD, 2 * LARGEST)


@contextmanager
def freed_blocks_kept() -> Iterator[None]:
    """For the process, while this lasts: what is freed is kept and used again. At the end all of it goes back."""
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        _set(MMAP_MAX, MAPPINGS)
        _set(TRIM_THRESHOLD, 2 * LARGEST)
        _call("malloc_trim", 0)


def _set(option: int, value: int) -> bool:
    return _call("mallopt", option, value)


def _call(name: str, *arguments: int) -> bool:
    """Whether there was something to call: other C libraries have neither function."""
    try:
        return bool(getattr(ctypes.CDLL(None), name)(*arguments))
    except (OSError, AttributeError):
        return False
