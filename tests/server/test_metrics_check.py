"""Numbers of a site that cannot be used are refused, and the message says whose and which field."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fedpartial.server.metrics_check import MetricsRefused, check_scores, check_update_metrics
from fedpartial.training.reported import NEEDED_NUMBERS

CLASSES = ("liver", "spleen")
METRICS = {
    **dict.fromkeys(NEEDED_NUMBERS, 1),
    "loss": 0.5,
    "val_dice": {"liver": 0.25},
    "val_cases": {"liver": 3},
    "num_training": 16,
    "annotated": {"liver": 1},
    "device": "cpu",
    "precision": "float32",
    "source": "phantom",
}
CASE = {
    "dice": {"liver": 0.5},
    "hd95_mm": {"liver": 3.0},
    "assd_mm": {"liver": 1.0},
    "leakage": {"liver": None},
    "status": {"liver": "scored"},
}
ANSWER = {
    "validation": {"final": {"liver": 1.0, "spleen": 0}},
    "validation_cases": {"final": {"liver": 3, "spleen": 2}},
    "validation_found": {"final": {"liver": 3, "spleen": 0}},
    "testing": {"final": [CASE], "local a": []},
    "device": "cpu",
    "precision": "float32",
    "source": "site file",
    "setup_seconds": 1.5,
    "num_training": 16,
    "annotated": {"liver": 1},
}
BAD_DICE = [float("nan"), float("inf"), -0.1, 1.1, True, None, "0.5", [0.5], np.float32(0.5), 10**400]


def refused(check, given: object) -> str:
    with pytest.raises(MetricsRefused) as caught:
        check("north", given, CLASSES)
    assert "from north refused: " in str(caught.value)
    return str(caught.value)


def test_good_metrics_pass():
    check_update_metrics("north", METRICS, CLASSES)
    check_update_metrics("north", {**METRICS, "val_dice": {}, "a_new_part_of_the_loss": -2.5}, CLASSES)


def test_every_required_name_is_required():
    for name in (*NEEDED_NUMBERS, "val_dice", "annotated", "device", "precision", "source"):
        assert name in refused(check_update_metrics, {key: value for key, value in METRICS.items() if key != name})


@pytest.mark.parametrize("value", BAD_DICE, ids=lambda value: f"{value!r:.20}")
def test_a_dice_is_a_number_from_zero_to_one(value):
    assert "val_dice.liver" in refused(check_update_metrics, {**METRICS, "val_dice": {"liver": value}})
    assert "validation.final.liver" in refused(check_scores, {**ANSWER, "validation": {"final": {"liver": value}}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", float("nan")),
        ("loss", "0.5"),
        ("loss", np.zeros(2)),
        ("seconds", -1.0),
        ("bytes_down", 1.5),
        ("tensors_taken", -1),
        ("tensors_taken", 2.0),
        ("num_training", 0),
        ("num_training", -1),
        ("num_training", 2.5),
        ("optimizer_round", None),
        ("new", float("inf")),
        ("device", "toaster"),
        ("source", np.array(["phantom", "phantom"])),
        ("val_dice", None),
        ("val_dice", {"lung": 1.0}),
        ("val_cases", {"liver": -1}),
        ("annotated", None),
        ("annotated", {}),
        ("annotated", {"liver": 0}),
        ("annotated", {"lung": 1}),
        ("annotated", {"liver": True}),
        ("annotated", {"liver": 17}),
    ],
)
def test_a_wrong_field_is_refused_by_name(name, value):
    assert name in refused(check_update_metrics, {**METRICS, name: value})


@pytest.mark.parametrize("metrics", [None, [], "loss", {}])
def test_metrics_are_values_by_name(metrics):
    refused(check_update_metrics, metrics)


def test_a_good_answer_passes():
    check_scores("north", ANSWER, CLASSES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("validation", None),
        ("testing", None),
        ("testing", {"another": []}),
        ("testing", {"final": None}),
        ("testing", {"final": [{**CASE, "dice": {"liver": 1.5}}]}),
        ("testing", {"final": [{**CASE, "hd95_mm": {"liver": float("nan")}}]}),
        ("testing", {"final": [{**CASE, "hd95_mm": {"liver": 10**400}}]}),
        ("testing", {"final": [{name: {"lung": value["liver"]} for name, value in CASE.items()}]}),
        ("testing", {"final": [{name: CASE[name] for name in ("dice", "status")}]}),
        ("testing", {"final": {"liver": {"dice": 1.0}}}),
        ("validation_cases", None),
        ("validation_cases", {"another": {}}),
        ("validation_cases", {"final": {"liver": 1.5}}),
        ("validation_cases", {"final": {"lung": 1}}),
        ("validation_found", {"final": [1, 2]}),
        ("validation_found", {"final": {"liver": -1}}),
        ("device", "gpu01"),
        ("precision", ["float32"]),
        ("source", None),
        ("setup_seconds", float("nan")),
        ("setup_seconds", -1.0),
        ("num_training", 2.5),
        ("num_training", -1),
        ("annotated", {"liver": 7}),
        ("annotated", {"lung": 1}),
    ],
)
def test_a_wrong_answer_is_refused_by_field(field, value):
    assert field in refused(check_scores, {**copy.deepcopy(ANSWER), field: value})


@pytest.mark.parametrize("name", ["weights", "loss", "val_dice", "cases", 7])
def test_an_answer_has_nothing_else(name):
    """A tensor by another name, or a number that only an update has."""
    assert f"{name}: got 'list'; expected no such field" in refused(check_scores, {**ANSWER, name: [0.5]})


def test_facts_may_be_missing_and_a_site_that_only_scores_has_no_training_case():
    check_scores("north", {"validation": {}, "testing": {}}, CLASSES)
    check_scores("north", {**ANSWER, "num_training": 0, "annotated": {}}, CLASSES)


@pytest.mark.parametrize("answer", [None, [], {"validation": {}}, {"testing": {}}])
def test_an_answer_has_both_parts(answer):
    refused(check_scores, answer)
