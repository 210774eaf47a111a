"""The weighted mean of site updates, independent of the order in which they arrive; no update is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedpartial.server.exact_sum import ExactSum

Weigh = Callable[[str, tuple[int, ...]], Sequence[float]]
"""(name, shape) of a tensor -> a site's weight for it: one number, or one for each of its rows (dimension 0)."""


class RunningMean:
    """Takes the sites' updates one at a time and gives sum_k w_k u_k / sum_k w_k by tensor name.

    The sums are exact (exact_sum.py), so the result is the same bit for bit whatever the order of arrival. Memory is
    16 bytes for each number of an update, however many sites there are.
    """

    def __init__(self) -> None:
        self.sites: set[str] = set()
        self._tensors: dict[str, _TensorMean] = {}

    def add(self, site: str, update: Mapping[str, np.ndarray], weigh: Weigh) -> None:
        """Add a site's update, once: the caller asks ``sites``. Every update must hold the same tensors.

        Raises ValueError for weights that are not above 0 and for tensors unlike those of the first update; then
        nothing of this update is in the sums.
        """
        weights = {name: _checked(site, weigh(name, np.shape(values))) for name, values in update.items()}
        if not self.sites:
            self._tensors = {n: _TensorMean(np.shape(values), len(weights[n])) for n, values in update.items()}
        if {name: np.shape(values) for name, values in update.items()} != {
            n: t.shape for n, t in self._tensors.items()
        }:
            raise ValueError(f"update of {site}: other tensors or shapes than those of the updates before it")
        self.sites.add(site)
        for name, values in update.items():
            self._tensors[name].add(values, weights[name])

    def take(self) -> dict[str, np.ndarray]:
        """The mean in float32, of a new array each; the sums are let go on the way and the next round can begin.

        Raises ValueError where nothing was added.
        """
        if not self.sites:
            raise ValueError("no update to aggregate: every site failed or was refused in this round")
        self.sites = set()
        return {name: self._tensors.pop(name).mean() for name in list(self._tensors)}


class _TensorMean:
    """The sums of a tensor's rows that have a weight of their own, or of all of it as one row."""

    def __init__(self, shape: tuple[int, ...], num_rows: int):
        self.shape = shape
        self._sums = [ExactSum(math.prod(shape) // num_rows) for _ in range(num_rows)]
        self._weights: list[list[float]] = [[] for _ in range(num_rows)]

    def add(self, values: np.ndarray, weights: Sequence[float]) -> None:
        rows = np.reshape(values, (len(self._sums), -1))
        for row, total, known, weight in zip(rows, self._sums, self._weights, weights, strict=True):
            total.add(row, weight)
            known.append(weight)

    def mean(self) -> np.ndarray:
        """The sum of the weights is rounded once (math.fsum), so it does not depend on their order either."""
        found = np.empty(self.shape, np.float32)
        rows = found.reshape(len(self._sums), -1)
        for row, total, known in zip(rows, self._sums, self._weights, strict=True):
            total.mean(math.fsum(known), row)
        return found


def weighted_mean(
    updates: Mapping[str, Mapping[str, np.ndarray]], weights: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """RunningMean of updates that are all there, by site; weights: a number above 0 for each site."""
    mean = RunningMean()
    for site, update in updates.items():
        mean.add(site, update, one_weight(weights[site]))
    return mean.take()


def one_weight(weight: float) -> Weigh:
    """The same weight for every tensor."""
    return lambda name, shape: (weight,)


def _checked(site: str, weights: Sequence[float]) -> tuple[float, ...]:
    if bad := [weight for weight in weights if not 0 < weight < math.inf]:
        raise ValueError(f"aggregation weight of {site}: got {bad[0]!r}; expected a number above 0")
    return tuple(map(float, weights))
