"""Weights of the deep-supervision heads (METHODS 1.1.4)."""

import pytest

from fedpartial.losses.deep_supervision import deep_supervision_weights


def test_the_four_heads_of_condistfl():
    assert deep_supervision_weights(4) == pytest.approx([0.5333, 0.2667, 0.1333, 0.0667], abs=5e-5)
    assert deep_supervision_weights(4) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15], rel=1e-15)


def test_a_single_output_has_all_the_weight():
    assert tuple(deep_supervision_weights(1)) == (1.0,)


@pytest.mark.parametrize("num_heads", range(1, 8))
def test_weights_halve_and_sum_to_one(num_heads):
    weights = deep_supervision_weights(num_heads)
    assert isinstance(weights, tuple)
    assert len(weights) == num_heads
    assert sum(weights) == pytest.approx(1, rel=1e-15)
    assert all(weights[i] == pytest.approx(2 * weights[i + 1], rel=1e-15) for i in range(num_heads - 1))
