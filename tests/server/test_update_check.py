"""An update that may not touch the global model is refused, and the message says whose and which tensor."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.server.update_check import UpdateRefused, check_update

REFERENCE = {"a.weight": np.zeros((2, 3), np.float32), "b.bias": np.zeros(4, np.float32), "c": np.float32(0)}


def update(**changes) -> dict:
    good = {name: np.full_like(value, 0.5) for name, value in REFERENCE.items()}
    return {**good, **{name.replace("__", "."): value for name, value in changes.items()}}


def with_value(value: float) -> np.ndarray:
    array = np.full((2, 3), 0.5, np.float32)
    array[1, 2] = value
    return array


def refused(given: dict, num_steps: object = 1) -> str:
    with pytest.raises(UpdateRefused) as caught:
        check_update("north", given, REFERENCE, num_steps)
    assert "north" in str(caught.value)
    return str(caught.value)


def test_a_good_update_passes():
    check_update("north", update(), REFERENCE, 3)
    check_update("north", update(), REFERENCE, np.int64(3))
    check_update("north", dict(reversed(update().items())), REFERENCE, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types_pass(dtype):
    check_update("north", update(a__weight=np.zeros((2, 3), dtype)), REFERENCE, 1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (with_value(np.nan), "1 value"),
        (with_value(np.inf), "1 value"),
        (with_value(-np.inf), "NaN or infinite"),
        (np.full((2, 3), np.nan, np.float16), "6 value"),
        (np.zeros((3, 2), np.float32), r"(3, 2)"),
        (np.zeros((1, 3), np.float32), r"(1, 3)"),
        (np.zeros((), np.float32), r"()"),
        (np.zeros((2, 3, 1), np.float32), r"(2, 3, 1)"),
        (np.zeros((2, 3), np.int64), "int64"),
        (np.zeros((2, 3), bool), "bool"),
        (np.zeros((2, 3), np.complex64), "complex64"),
        (np.zeros((2, 3), object), "object"),
        ([[0.0] * 3] * 2, "list"),
        (None, "NoneType"),
        ("weights", "str"),
        (0.0, "float"),
    ],
    ids=str,
)
def test_a_bad_tensor_is_refused_by_name(value, reason):
    message = refused(update(a__weight=value))
    assert "'a.weight'" in message
    assert reason in message


def test_every_tensor_is_looked_at():
    assert len(REFERENCE) == 3
    for name, value in REFERENCE.items():
        given = update()
        given[name] = np.full_like(value, np.nan)
        assert repr(name) in refused(given)


def test_a_missing_tensor_is_refused_by_name():
    given = update()
    del given["b.bias"]
    assert "1 tensor(s) missing, first 'b.bias'" in refused(given)
    assert "3 tensor(s) missing, first 'a.weight'" in refused({})


def test_an_extra_tensor_is_refused_by_name():
    assert "1 unknown tensor(s), first 'd.weight'" in refused(update(d__weight=np.zeros(1, np.float32)))


@pytest.mark.parametrize("num_steps", [0, -1, None, True, False, 1.0, "1", float("nan"), np.float32(2), [1]])
def test_the_number_of_steps_is_a_positive_integer(num_steps):
    assert "local steps" in refused(update(), num_steps)


def test_nothing_is_changed():
    given = update(a__weight=with_value(np.nan))
    before = {name: np.copy(value) for name, value in given.items()}
    refused(given)
    assert all(np.array_equal(given[n], before[n], equal_nan=True) for n in before)
