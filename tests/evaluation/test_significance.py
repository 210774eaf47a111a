"""Tests between methods: small cases counted by hand, and the definitions where SciPy has none."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.evaluation.significance import holm, paired_test, powerless, rank_biserial, smallest_p


def test_holm_agrees_with_the_textbook():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_the_order_of_p_and_stays_below_one():
    assert holm([0.5, 0.6, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    p = np.random.default_rng(0).uniform(size=20)
    corrected = np.array(holm(p))
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert (corrected >= p).all()


@pytest.mark.parametrize(
    ("differences", "p", "effect"),
    [
        ([0.1, 0.2, 0.3], 2 / 8, 1.0),
        ([-0.1, -0.2, -0.3], 2 / 8, -1.0),
        ([0.1, 0.2, 0.3, -0.4], 2 * 7 / 16, (6 - 4) / 10),
        ([0.1, 0.2, 0.3, 0.4, -0.5], 2 * 10 / 32, (10 - 5) / 15),
    ],
)
def test_wilcoxon_agrees_with_counting_sign_patterns(differences, p, effect):
    """Of 2^n sign patterns, those whose smaller rank sum is not larger: 7 subsets of 1..4 sum to 4 at most, 10 of
    1..5 to 5 at most."""
    base = np.full(len(differences), 0.4)
    test = paired_test("a", "b", base + differences, base, seeds=3)
    assert test.wilcoxon_p == pytest.approx(p)
    assert test.rank_biserial == pytest.approx(effect)
    assert test.difference == pytest.approx(np.mean(differences))
    assert (test.n, test.seeds) == (len(differences), 3)


def test_mann_whitney_of_three_against_three_separated_values():
    """One of 20 ways to choose three of six, on either side."""
    assert paired_test("a", "b", [0.7, 0.8, 0.9], [0.1, 0.2, 0.3], seeds=1).mann_whitney_p == pytest.approx(2 / 20)


def test_equal_methods_are_no_different_by_definition():
    test = paired_test("a", "b", [0.5, 0.1 + 0.2, 0.0], [0.5, 0.3, 0.0], seeds=1)
    assert 0.1 + 0.2 != 0.3
    assert (test.wilcoxon_p, test.mann_whitney_p, test.rank_biserial, test.difference) == (1.0, 1.0, 0.0, 0.0)


def test_one_patient_gives_a_p_of_one():
    assert paired_test("a", "b", [0.9], [0.1], seeds=1).wilcoxon_p == smallest_p(1) == 1.0


@pytest.mark.parametrize("n", [2, 5, 9])
def test_smallest_p_is_what_wilcoxon_gives_when_all_differences_have_one_sign(n):
    values = np.linspace(0.1, 0.2, n) ** 2
    assert paired_test("a", "b", 0.5 + values, np.full(n, 0.5), seeds=1).wilcoxon_p == pytest.approx(smallest_p(n))


def test_differences_of_zero_have_no_rank():
    assert rank_biserial(np.array([0.0, 0.0, 0.2, -0.1])) == pytest.approx((2 - 1) / 3)


def test_tests_are_powerless_when_the_smallest_p_is_too_large_after_correction():
    six = paired_test("a", "b", np.linspace(0.5, 0.6, 6) ** 2, np.full(6, 0.1), seeds=3)
    assert not powerless([six]), "0.031 is below 0.05"
    assert powerless([six, six]), "2 times 0.031 is not"
    assert not powerless([])
