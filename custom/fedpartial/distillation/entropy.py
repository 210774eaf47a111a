"""How sure a probability map is (MMDS Eq 1, METHODS 4.3), and the rule by which maps of one class are compared.

The paper's form is the mean of -p log p over the whole image. A map without any foreground has the lowest value of all,
so a model that misses the organ teaches it. The repaired form asks only where the model itself sees the organ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import entr

from fedpartial.errors import ConfigError

Form = Literal["one_sided", "binary"]
Domain = Literal["all", "predicted_fg"]
FOREGROUND = 0.5
"""A voxel is predicted foreground from this probability on."""
BLOCK = 1 << 20
"""Voxels that are looked at together: float64 copies of this size only."""


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """Which of several maps of a class teaches: the one of lowest entropy.

    form: "one_sided", -p log p as in the paper, or "binary", with -(1-p) log(1-p) as well. domain: "all" voxels as in
    the paper, or "predicted_fg", those that the map itself calls foreground (p >= 0.5); there a map with fewer than
    min_fg_voxels of them, or fewer than min_share of those of the map that has most, is no candidate: a sure speck
    would win over the organ. Raises ConfigError for another value.
    """

    form: Form = "one_sided"
    domain: Domain = "predicted_fg"
    min_fg_voxels: int = 10
    min_share: float = 0.1

    def __post_init__(self):
        for field, kind in (("form", Form), ("domain", Domain)):
            if getattr(self, field) not in get_args(kind):
                raise _error(field, getattr(self, field), f"one of {', '.join(get_args(kind))}")
        count = self.min_fg_voxels
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise _error("min_fg_voxels", count, "a whole number of at least 1")
        share = self.min_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise _error("min_share", share, "a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class MapEntropy:
    """What selection needs to know of one map: mean entropy in both forms, over all voxels and over its foreground.

    The values over the foreground are None for a map without any.
    """

    fg_voxels: int
    one_sided: float
    binary: float
    one_sided_fg: float | None
    binary_fg: float | None

    def over(self, form: Form, domain: Domain) -> float | None:
        """Mean entropy over a domain; None where the domain is empty."""
        return getattr(self, form if domain == "all" else f"{form}_fg")

    def to_dict(self) -> dict:
        return asdict(self)


def measure(probabilities: np.ndarray) -> MapEntropy:
    """All that selection may ask of a map (any shape): Eq (1) and its variants.

    Means over voxels with the natural logarithm, 0 log 0 = 0, sums in float64.
    """
    sums = dict.fromkeys(("one_sided", "binary", "one_sided_fg", "binary_fg"), 0.0)
    fg_voxels = 0
    for block in _blocks(probabilities):
        foreground = block >= FOREGROUND
        fg_voxels += int(foreground.sum())
        for form, values in _voxel_entropies(block):
            sums[form] += float(values.sum())
            sums[f"{form}_fg"] += float(values[foreground].sum())
    counts = {name: fg_voxels if name.endswith("_fg") else probabilities.size for name in sums}
    means = {name: value / counts[name] if counts[name] else None for name, value in sums.items()}
    return MapEntropy(fg_voxels=fg_voxels, **means)


def _voxel_entropies(probabilities: np.ndarray) -> Iterator[tuple[Form, np.ndarray]]:
    """Of each voxel in both forms, float64."""
    one_sided = entr(probabilities)
    yield "one_sided", one_sided
    yield "binary", one_sided + entr(1.0 - probabilities)


def _blocks(probabilities: np.ndarray) -> Iterator[np.ndarray]:
    flat = probabilities.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].astype(np.float64)


def _error(field: str, got: object, expected: str) -> ConfigError:
    remedy = "See fedpartial.distillation.entropy.SelectionRule."
    return ConfigError(where="selection rule", field=field, got=got, expected=expected, remedy=remedy)
