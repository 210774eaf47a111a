"""Paired tests between methods over patients: Wilcoxon and Mann-Whitney from SciPy, Holm's correction, effect sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from fedpartial.evaluation.compared_run import ComparedRun, comparable
from fedpartial.evaluation.patients import paired_values

ALPHA = 0.05
DIGITS = 12
"""Differences are rounded to so many digits: what differs by less is a tie."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Method ``a`` against method ``b`` on the same patients.

    n: patients. difference: mean Dice of a minus b. rank_biserial: matched-pairs rank-biserial correlation, from -1
    (b is better in every patient) to 1. wilcoxon_p, mann_whitney_p: two-sided; ``_holm``: corrected over all pairs
    of the set. smallest_p: what Wilcoxon's test can give at the least with n patients.
    """

    a: str
    b: str
    n: int
    seeds: int
    difference: float
    rank_biserial: float
    wilcoxon_p: float
    mann_whitney_p: float
    smallest_p: float
    wilcoxon_holm: float = 1.0
    mann_whitney_holm: float = 1.0

    @property
    def significant(self) -> bool:
        """By Wilcoxon's test, the one for pairs, after correction."""
        return self.wilcoxon_holm < ALPHA


def compare_pairs(groups: Mapping[str, Sequence[ComparedRun]], which: str) -> list[PairedTest]:
    """One test for each pair of methods that can be compared on a set and has patients, Holm-corrected over them."""
    found = []
    for a, b in combinations(groups, 2):
        if comparable(groups[a][0], groups[b][0], which):
            values = paired_values(groups[a], groups[b], which)
            if values:
                seeds = len({run.seed for run in groups[a]} & {run.seed for run in groups[b]})
                found.append(paired_test(a, b, *zip(*values, strict=True), seeds=seeds))
    wilcoxon = holm([test.wilcoxon_p for test in found])
    mann_whitney = holm([test.mann_whitney_p for test in found])
    return [
        replace(test, wilcoxon_holm=w, mann_whitney_holm=m)
        for test, w, m in zip(found, wilcoxon, mann_whitney, strict=True)
    ]


def paired_test(a: str, b: str, values_a: Sequence[float], values_b: Sequence[float], *, seeds: int) -> PairedTest:
    """The test of one pair; ``values_a`` and ``values_b`` have one value per patient, in the same order."""
    from scipy.stats import mannwhitneyu, wilcoxon

    differences = np.round(np.subtract(values_a, values_b), DIGITS)
    equal = not differences.any()
    return PairedTest(
        a=a,
        b=b,
        n=len(differences),
        seeds=seeds,
        difference=float(differences.mean()),
        rank_biserial=rank_biserial(differences),
        wilcoxon_p=1.0 if equal else float(wilcoxon(differences).pvalue),
        mann_whitney_p=1.0 if equal else float(mannwhitneyu(values_a, values_b).pvalue),
        smallest_p=smallest_p(len(differences)),
    )


def smallest_p(n: int) -> float:
    """The two-sided p of Wilcoxon's exact test when all ``n`` differences have one sign."""
    return min(1.0, 2.0 ** (1 - n))


def rank_biserial(differences: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014): share of the rank sum in favour minus against.

    Differences of zero have no rank; 0 when there are no others.
    """
    from scipy.stats import rankdata

    given = differences[differences != 0]
    ranks = rankdata(np.abs(given))
    return float(ranks @ np.sign(given) / ranks.sum()) if given.size else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979), in the order given: the k-th smallest of m times m - k + 1, never
    less than the one before it, at most 1."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def powerless(tests: Sequence[PairedTest]) -> bool:
    """Whether no result of these tests could be significant: the smallest p of all is too large after correction."""
    return bool(tests) and min(test.smallest_p for test in tests) * len(tests) >= ALPHA
