"""What is free is not kept: seen in a process of its own, whose memory nobody else uses."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, threading
from pathlib import Path
import numpy as np
from fedpartial import heap

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def work(size, kept):
    for _ in range(3):
        blocks = [np.ones(size, np.uint8) for _ in range(4)]
        kept.append(np.ones(1000, np.uint8))  # lies behind the blocks and keeps an arena from shrinking
        del blocks

kept = []
with {context}:
    before = resident()
    for size in (30 * 2**20, 20 * 2**20, 10 * 2**20):
        threads = [threading.Thread(target=work, args=(size, kept)) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    print(resident() - before)
"""


def kept_mib(context: str) -> float:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(context=context)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps them")
def test_large_blocks_of_threads_are_returned():
    assert kept_mib("heap.large_blocks_returned()") < 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps them")
def test_without_it_they_are_kept():
    """Or the test above could not fail."""
    assert kept_mib("contextlib.nullcontext()") > 20


def test_another_c_library_changes_nothing():
    script = """
import ctypes
from fedpartial import heap
class Other:
    def __init__(self, name): pass
heap.ctypes.CDLL = Other
with heap.large_blocks_returned(): print(heap._set(-3, 1))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
