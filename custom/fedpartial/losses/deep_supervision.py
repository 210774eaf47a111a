"""Weights of deep-supervision heads: halved per level, summing to one (METHODS 1.1)."""

from __future__ import annotations


def deep_supervision_weights(num_heads: int) -> tuple[float, ...]:
    """2^-i / sum, the full-resolution head first."""
    total = sum(2.0**-i for i in range(num_heads))
    return tuple(2.0**-i / total for i in range(num_heads))
