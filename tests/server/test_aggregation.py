"""The mean of the sites: exact, in any order of arrival."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedpartial.server.aggregation import RunningMean, one_weight, weighted_mean

SITES = ("kidney", "liver", "pancreas", "spleen")
SHAPES = {"a": (3, 4), "b": (5,), "c": ()}


def updates(dtype=np.float32, scale: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    """Values of very different sizes, so that the order of a sum shows."""
    rng = np.random.default_rng(0)
    return {
        site: {
            n: np.asarray(scale * rng.normal(size=s) * 10.0 ** rng.integers(-6, 3, s), dtype) for n, s in SHAPES.items()
        }
        for site in SITES
    }


WEIGHTS = {"kidney": 1.0, "liver": 40.0, "pancreas": 3.5, "spleen": 7.0}


CANCELLING = {"kidney": 2.0**60, "liver": 3.0, "pancreas": -(2.0**60), "spleen": 5.0}
"""Their sum depends on its order even in float64: 3 and 5 are lost beside 2^60."""


@pytest.mark.parametrize("weights", [WEIGHTS, dict.fromkeys(SITES, 1.0), dict.fromkeys(SITES, 25)])
def test_it_is_numpys_average_in_float64(weights):
    given = updates()
    found = weighted_mean(given, weights)
    assert list(found) == list(SHAPES)
    for name, shape in SHAPES.items():
        stack = np.stack([given[site][name].astype(np.float64) for site in SITES])
        expected = np.average(stack, axis=0, weights=[weights[site] for site in SITES])
        assert found[name].shape == shape
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected.astype(np.float32))


def test_the_order_of_arrival_changes_no_bit():
    given = updates()
    expected = weighted_mean(given, WEIGHTS)
    checked = 0
    for order in itertools.permutations(SITES):
        weights = {site: WEIGHTS[site] for site in reversed(order)}
        found = weighted_mean({site: given[site] for site in order}, weights)
        assert all(found[n].tobytes() == expected[n].tobytes() for n in SHAPES)
        checked += 1
    assert checked == 24


def test_the_order_of_arrival_does_not_even_matter_where_values_cancel():
    orders = list(itertools.permutations(SITES))
    assert len({sum(CANCELLING[site] for site in order) for order in orders}) > 1, "the order matters without care"
    means = {
        weighted_mean({s: {"w": np.float32([CANCELLING[s]])} for s in order}, dict.fromkeys(order, 1.0))["w"].tobytes()
        for order in orders
    }
    assert len(means) == 1


def test_sums_run_in_float64():
    """In float32 the 1 would be lost beside 10^8."""
    values = {"kidney": 1e8, "liver": 1.0, "pancreas": -1e8, "spleen": 1.0}
    given = {site: {"w": np.float32([value])} for site, value in values.items()}
    assert weighted_mean(given, dict.fromkeys(SITES, 1.0))["w"].tolist() == [0.5]


def test_the_order_of_the_names_does_not_matter():
    given = updates()
    turned = {site: dict(reversed(tensors.items())) for site, tensors in given.items()}
    expected = weighted_mean(given, WEIGHTS)
    found = weighted_mean({**turned, "liver": given["liver"]}, WEIGHTS)
    assert all(np.array_equal(found[n], expected[n]) for n in SHAPES)


def test_one_site_is_its_own_mean():
    given = {"liver": updates()["liver"]}
    found = weighted_mean(given, {"liver": 123.0})
    assert all(np.array_equal(found[n], given["liver"][n]) for n in SHAPES)


def test_equal_updates_are_their_own_mean():
    one = updates()["liver"]
    found = weighted_mean(dict.fromkeys(SITES, one), dict.fromkeys(SITES, 1.0))
    assert all(np.array_equal(found[n], one[n]) for n in SHAPES)


def test_float16_does_not_overflow():
    """FLARE's aggregator multiplies by the number of steps in float16 (design notes, section 8)."""
    given = {site: {"w": np.full(2, 6e4, np.float16)} for site in SITES}
    found = weighted_mean(given, dict.fromkeys(SITES, 1000.0))["w"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, float(np.float16(6e4)))


def test_the_sites_arrays_are_left_alone():
    given = updates()
    before = {site: {n: v.copy() for n, v in tensors.items()} for site, tensors in given.items()}
    weighted_mean(given, WEIGHTS)["a"][:] = 0.0
    assert all(np.array_equal(given[s][n], before[s][n]) for s in SITES for n in SHAPES)
    alone = {"liver": given["liver"]}
    weighted_mean(alone, {"liver": 1.0})["a"][:] = 0.0
    assert np.array_equal(alone["liver"]["a"], before["liver"]["a"])


def test_no_update_is_refused():
    with pytest.raises(ValueError, match="no update to aggregate"):
        weighted_mean({}, {})


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused_by_site(weight):
    with pytest.raises(ValueError, match="aggregation weight of pancreas"):
        weighted_mean(updates(), {**WEIGHTS, "pancreas": weight})


def test_one_update_after_the_other_is_the_mean_of_all_and_the_next_round_begins_empty():
    given, mean = updates(), RunningMean()
    for _ in range(2):
        for site in reversed(SITES):
            mean.add(site, given[site], one_weight(WEIGHTS[site]))
        assert mean.sites == set(SITES)
        expected, found = weighted_mean(given, WEIGHTS), mean.take()
        assert all(found[n].tobytes() == expected[n].tobytes() for n in SHAPES)
        assert not mean.sites
    with pytest.raises(ValueError, match="no update to aggregate"):
        mean.take()


@pytest.mark.parametrize("change", [{"a": np.zeros((4, 3), np.float32)}, {"d": np.zeros(1, np.float32)}])
def test_an_update_of_other_tensors_is_refused_whole(change):
    given, mean = updates(), RunningMean()
    mean.add("kidney", given["kidney"], one_weight(1.0))
    with pytest.raises(ValueError, match="update of liver: other tensors"):
        mean.add("liver", given["liver"] | change, one_weight(1.0))
    found = mean.take()
    assert all(np.array_equal(found[n], given["kidney"][n]) for n in SHAPES)
