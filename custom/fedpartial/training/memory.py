"""Keep freed memory for the next step instead of giving it back to the kernel.

A training step frees and allocates the same few megabyte-sized tensors; by default glibc returns each to
the kernel and page-faults it in again, a fifth of a small network's step on a CPU (benchmarks/).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_ARENA_BLOCK = 32 * 1024**2
KEPT = 512 * 1024**2


def keep_freed_memory() -> bool:
    """Tune glibc's malloc for this process; False where there is no glibc."""
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_ARENA_BLOCK) and libc.mallopt(M_TRIM_THRESHOLD, KEPT))
