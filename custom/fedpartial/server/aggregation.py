"""The weighted mean of site updates, independent of the order in which they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    shares = shares_of(weights, updates)
    return {name: mean_tensor({s: updates[s][name] for s in shares}, shares) for name in updates[next(iter(shares))]}


def shares_of(weights: Mapping[str, float], sites: Iterable[str]) -> dict[str, float]:
    """Each site's part of the sum of the sites' weights, in the order of their names; every weight above 0."""
    names = sorted(sites)
    if bad := [site for site in names if not weights[site] > 0]:
        raise ValueError(f"aggregation weight of {bad[0]}: got {weights[bad[0]]!r}; expected a number above 0")
    total = float(sum(weights[site] for site in names))
    return {site: weights[site] / total for site in names}


def mean_tensor(tensors: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> np.ndarray:
    """Sum of share times tensor, in float64 and the order of ``shares``; float32."""
    total = np.zeros(np.shape(tensors[next(iter(shares))]), dtype=np.float64)
    for site, share in shares.items():
        total += share * tensors[site].astype(np.float64)
    return total.astype(np.float32)
