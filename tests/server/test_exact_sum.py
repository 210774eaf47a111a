"""Sums that do not know an order: against fractions, in every order, where float64 would lose a bit."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from fedpartial.server.exact_sum import CHUNK, ExactSum

TIE = 2.0**-24
"""1 + TIE lies in the middle of two float32 numbers; the even one is 1."""


def mean(values: list, weights: list[float], dtype=np.float32) -> np.float32:
    total, out = ExactSum(1), np.empty(1, np.float32)
    for value, weight in zip(values, weights, strict=True):
        total.add(np.array([value], dtype), weight)
    total.mean(math.fsum(weights), out)
    return out[0]


def nearest(values: list, weights: list[float], dtype=np.float32) -> np.float32:
    """The float32 nearest to the exact mean, ties to even; total weight as fsum rounds it."""
    numbers = [Fraction(float(dtype(value))) for value in values]
    exact = sum((Fraction(w) * n for w, n in zip(weights, numbers, strict=True)), Fraction(0))
    exact /= Fraction(math.fsum(weights))
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    finite = [c for c in candidates if np.isfinite(c)]
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def drawn(rng: random.Random, dtype) -> tuple[list, list[float]]:
    """Updates of one element: numbers near each other, of many sizes, cancelling, and zeros."""
    number, size = rng.randint(1, 9), rng.choice([0, 3, 12])
    values = [float(dtype(rng.uniform(-1, 1) * 2.0 ** rng.randint(-size, size))) for _ in range(number)]
    if rng.random() < 0.3:
        values += [-value for value in values[:-1]]
    if rng.random() < 0.3:
        values[0] = 0.0
    weighted = rng.choice(
        [lambda: 1.0, lambda: float(rng.randint(1, 4000)), lambda: rng.choice([0.5, 1.0]), rng.random]
    )
    return values, [weighted() + (weighted is rng.random) for _ in values]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_mean_is_the_nearest_float32_to_the_exact_one(dtype):
    rng, checked = random.Random(0), 0
    for _ in range(1000):
        values, weights = drawn(rng, dtype)
        assert mean(values, weights, dtype) == nearest(values, weights, dtype), (values, weights)
        checked += 1
    assert checked == 1000


def test_no_order_changes_a_bit():
    rng, checked = random.Random(1), 0
    for _ in range(60):
        values, weights = drawn(rng, np.float32)
        pairs = list(zip(values, weights, strict=True))
        expected = mean(values, weights)
        for order in itertools.islice(itertools.permutations(pairs), 0, 5040, 84):
            assert mean(*zip(*order, strict=True)).tobytes() == expected.tobytes()
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, TIE], 1.0),  # a tie: the even one
        ([1.0, TIE, 2.0**-80], 1 + 2 * TIE),  # just above
        ([1.0, TIE, -(2.0**-80)], 1.0),  # just below
        ([1 + 2 * TIE, TIE], 1 + 4 * TIE),  # the even one above
        ([1 + 2 * TIE, TIE, -(2.0**-80)], 1 + 2 * TIE),
        ([-1.0, -TIE, -(2.0**-80)], -1 - 2 * TIE),
        ([2.0**60, 3.0, -(2.0**60), 5.0], 8.0),
        ([2.0**60, 2.0**30, 1.0, 2.0**-23, -(2.0**60), -(2.0**30)], 1 + 2.0**-23),
        ([2.0**127, 2.0**127, -(2.0**127), -(2.0**127), 1.0], 1.0),
        ([2.0**-149, 2.0**-149], 2.0**-148),
        ([1.0, -1.0], 0.0),
    ],
)
def test_ties_and_cancellation_in_every_order(values, expected):
    """Sums, not means: the weights add up to one by a last, empty update."""
    number = len(values)
    found = {mean(list(order), [1.0] * number).tobytes() for order in itertools.permutations(values)}
    assert found == {nearest(values, [1.0] * number).tobytes()}
    assert _sum(values) == expected


def _sum(values: list[float]) -> float:
    total, out = ExactSum(1), np.empty(1, np.float32)
    for value in values:
        total.add(np.float32([value]), 1.0)
    total.mean(1.0, out)
    return float(out[0])


def test_float64_alone_would_not_do():
    """The cases above are hard: adding up in float64 gives several results."""
    values = [2.0**60, 2.0**30, 1.0, 2.0**-23, -(2.0**60), -(2.0**30)]
    assert len({sum(order) for order in itertools.permutations(values)}) > 2


@pytest.mark.parametrize("weight", [3.0, 0.1, 1 / 3, 4097.0, 2.0**40 + 1])
def test_equal_updates_are_their_own_mean_for_any_weight(weight):
    values = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    total, out = ExactSum(values.size), np.empty_like(values)
    for _ in range(3):
        total.add(values, weight)
    total.mean(math.fsum([weight] * 3), out)
    assert out.tobytes() == values.tobytes()


def test_every_chunk_is_added():
    size = 2 * CHUNK + 3
    first, second = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    total, out = ExactSum(size), np.full(size, np.nan, np.float32)
    total.add(first, 2.0)
    total.add(second, 1.0)
    total.mean(3.0, out)
    np.testing.assert_array_equal(out, ((2 * first.astype(np.float64) + second) / 3).astype(np.float32))


def test_what_is_added_is_left_alone_and_may_not_be_written_to():
    values = np.float32([1.0, 2.0])
    values.flags.writeable = False
    total, out = ExactSum(2), np.empty(2, np.float32)
    total.add(values, 5.0)
    total.mean(5.0, out)
    assert out.tolist() == values.tolist() == [1.0, 2.0]


def test_an_empty_tensor_has_an_empty_mean():
    total, out = ExactSum(0), np.empty(0, np.float32)
    total.add(np.empty(0, np.float32), 1.0)
    total.mean(1.0, out)
    assert out.size == 0
