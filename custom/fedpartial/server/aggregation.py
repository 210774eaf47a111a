"""The weighted mean of site updates, independent of the order in which they arrive."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def weighted_mean(
    updates: Mapping[str, Mapping[str, np.ndarray]], weights: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Mean of updates by tensor name: sum_k w_k u_k / sum_k w_k.

    Sums run in float64 over the sites in the order of their names, so that the result is the same bit
    for bit whatever the order of arrival; it is returned in float32. Every update must hold the same
    tensors (check_update sees to that); weights must be positive.
    """
    if not updates:
        raise ValueError("no update to aggregate: every site failed or was refused in this round")
    sites = sorted(updates)
    if bad := [site for site in sites if not weights[site] > 0]:
        raise ValueError(f"aggregation weight of {bad[0]}: got {weights[bad[0]]!r}; expected a number above 0")
    total = float(sum(weights[site] for site in sites))
    return {name: _mean([(weights[s] / total, updates[s][name]) for s in sites]) for name in updates[sites[0]]}


def _mean(parts: list[tuple[float, np.ndarray]]) -> np.ndarray:
    total = np.zeros(parts[0][1].shape, dtype=np.float64)
    for share, tensor in parts:
        total += share * tensor.astype(np.float64)
    return total.astype(np.float32)
