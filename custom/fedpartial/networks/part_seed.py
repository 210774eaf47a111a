"""A seed for each part of a network, so that its first weights do not depend on what other parts stand beside it."""

from __future__ import annotations

import zlib

import numpy as np


def part_seed(seed: int, name: str) -> int:
    """From the run's seed and the part's name."""
    return int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])
