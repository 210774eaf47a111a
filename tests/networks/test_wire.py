"""Half precision on the way: what it rounds, what it leaves alone, and where it ends."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.errors import ConfigError
from fedpartial.networks.wire import LARGEST_HALF, as_received, from_wire, to_wire, wire_bytes

EXACT = ("bn.running_mean", "bn.running_var", "embeddings.liver")


def state() -> dict[str, np.ndarray]:
    values = np.float32([[1.0, -0.1], [1e-3, 3.0]])
    return {"conv.weight": values, "conv.bias": values[0], **{name: values[1] for name in EXACT}}


def test_float32_changes_no_array():
    given = state()
    sent = to_wire(given, "float32")
    assert sent is not given
    assert all(sent[name] is given[name] for name in given)
    assert wire_bytes(given, "float32") == 4 * (4 + 2 + 3 * 2)


def test_float16_halves_what_may_be_rounded():
    given = state()
    sent = to_wire(given, "float16")
    assert list(sent) == list(given)
    assert {name: value.dtype for name, value in sent.items() if value.dtype != np.float16} == dict.fromkeys(
        EXACT, np.float32
    )
    assert all(sent[name] is given[name] for name in EXACT)
    assert sum(value.nbytes for value in sent.values()) == wire_bytes(given, "float16") == 2 * 6 + 4 * 6


def test_what_comes_back_is_the_nearest_half_in_single_precision():
    found = as_received({"w": np.float32([1.0, 0.1, 1 + 2**-12, 3e-8, 1e-8])}, "float16")["w"]
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 0.0999755859375, 1.0, 2.0**-24, 0.0]


def test_a_second_journey_changes_nothing():
    once = as_received({"w": np.random.default_rng(0).normal(size=100).astype(np.float32)}, "float16")
    assert np.array_equal(as_received(once, "float16")["w"], once["w"])


def test_an_update_keeps_what_a_whole_weight_would_lose():
    """Why sites send local - received: steps of a half near 1 are 2**-10."""
    received, local = np.float32([1.0]), np.float32([1.0 + 1e-5])
    update = as_received({"w": local - received}, "float16")["w"]
    assert received + update == pytest.approx(local, abs=1e-8)
    assert as_received({"w": local}, "float16")["w"] == received


def test_roundings_do_not_add_up():
    """The server's weights keep what a message leaves out: a thousand rounds of 1e-6 are 1e-3."""
    model = {"w": np.float32([1.0])}
    for _ in range(1000):
        received = as_received(model, "float16")["w"]
        local = received + np.float32(1e-6)
        model["w"] = model["w"] + as_received({"w": local - received}, "float16")["w"]
    assert model["w"][0] == pytest.approx(1.001, abs=1e-4)


@pytest.mark.parametrize("value", [65520.0, -1e6, 3e38])
def test_a_value_beyond_half_precision_is_an_error_with_tensor_and_remedy(value):
    with pytest.raises(ConfigError, match=r"'conv.weight'.*--set wire=float32") as caught:
        to_wire({"conv.weight": np.float32([0.0, np.inf, value])}, "float16")
    assert caught.value.field == "wire"
    assert f"{abs(value):g}" in str(caught.value)


def test_the_largest_half_passes_and_running_statistics_may_be_larger():
    sent = to_wire({"w": np.float32([LARGEST_HALF]), "bn.running_var": np.float32([1e9])}, "float16")
    assert sent["w"].tolist() == [LARGEST_HALF]
    assert sent["bn.running_var"].tolist() == [1e9]


def test_nan_and_infinity_are_left_for_the_checks_of_the_receiver():
    given = np.float32([np.nan, np.inf, -np.inf])
    assert np.array_equal(as_received({"w": given}, "float16")["w"], given, equal_nan=True)


@pytest.mark.parametrize("value", [np.int64([1]), np.float16([1]), np.array(["x"])])
def test_other_kinds_of_numbers_travel_as_they_are(value):
    assert to_wire({"w": value}, "float16")["w"] is value


def test_only_halves_are_widened():
    given = {"h": np.float16([0.5]), "s": np.float32([1]), "d": np.float64([1]), "i": np.int64([1]), "odd": "text"}
    found = from_wire(given)
    assert found["h"].dtype == np.float32
    assert all(found[name] is given[name] for name in ("s", "d", "i", "odd"))


def test_scalars_stay_arrays():
    assert type(to_wire({"w": np.array(0.5, np.float32)}, "float16")["w"]) is np.ndarray
