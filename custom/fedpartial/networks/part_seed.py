"""A seed for each part of a network, so that its first weights do not depend on what other parts stand beside it."""

from __future__ import annotations

import threading
import zlib

import numpy as np

GENERATOR = threading.Lock()
"""Held while first weights are drawn: torch's generator is one for all threads, and a server builds a network in one
thread to check a model that arrives while another thread makes its own."""


def part_seed(seed: int, name: str) -> int:
    """From the run's seed and the part's name."""
    return int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])
