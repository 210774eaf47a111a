"""Which tensors travel, by name."""

from __future__ import annotations

import pytest

from fedpartial.networks.split import is_norm, is_shared

CONV = "trunk.0.conv.unit0.conv.weight"
SLOPE = "trunk.0.conv.unit0.adn.A.weight"
SCALE = "trunk.1.submodule.0.conv.unit1.adn.N.weight"
MEAN = "trunk.1.submodule.0.conv.unit1.adn.N.running_mean"
HEAD = "heads.liver.0.conv.weight"
HEAD_MEAN = "heads.liver.0.adn.N.running_mean"
NAMES = [CONV, SLOPE, SCALE, MEAN, HEAD, HEAD_MEAN]


@pytest.mark.parametrize(
    ("exchange", "shared"),
    [
        ("all", NAMES),
        ("trunk", [CONV, SLOPE, SCALE, MEAN]),
        ("trunk_without_statistics", [CONV, SLOPE, SCALE]),
        ("trunk_without_norms", [CONV, SLOPE]),
    ],
)
def test_an_exchange_shares_exactly_its_part(exchange, shared):
    assert [name for name in NAMES if is_shared(name, exchange)] == shared


def test_a_slope_of_prelu_is_no_norm():
    assert is_norm(SCALE)
    assert is_norm(MEAN)
    assert not is_norm(SLOPE)
