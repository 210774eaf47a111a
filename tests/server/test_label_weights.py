"""Aggregation by label: encoders, heads and rows of an output layer follow the sites that annotate their class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace, Organ
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.label_weights import LabelWeights, label_weighted_mean

SPACE = LabelSpace(organs=(Organ(name="liver", lesions=("liver_tumor",)), Organ(name="spleen")))
FED_MENU = LabelWeights()
ANNOTATED = {"full": ("liver", "liver_tumor", "spleen"), "liver": ("liver",), "spleen": ("spleen",)}
WEIGHTS = {"full": 4.0, "liver": 9.0, "spleen": 3.0}
SHAPES = {
    "encoders.liver.0.weight": (3, 2),
    "encoders.spleen.0.weight": (3, 2),
    "heads.liver_tumor.0.weight": (2,),
    "output_block.conv.conv.weight": (4, 3, 1, 1, 1),
    "output_block.conv.conv.bias": (4,),
    "decoder.output.weight": (4, 2),
}
EXPECTED = {
    "encoders.liver.0.weight": [1.0, 1.0, 0.5],
    "encoders.spleen.0.weight": [1.0, 0.5, 1.0],
    "heads.liver_tumor.0.weight": [1.0, 0.5, 0.5],
    "decoder.output.weight": [4.0, 9.0, 3.0],
}
ROWS = [[4.0, 9.0, 3.0], [1.0, 1.0, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, 1.0]]
"""Weights of the rows background, liver, liver_tumor, spleen."""


def updates() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        s: {n: (rng.normal(size=k) * 10.0 ** rng.integers(-6, 3, k)).astype(np.float32) for n, k in SHAPES.items()}
        for s in ANNOTATED
    }


def average(tensors: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return np.average(np.stack(tensors).astype(np.float64), axis=0, weights=weights).astype(np.float32)


def mean(given, label_weights=FED_MENU, weights=WEIGHTS):
    return label_weighted_mean(given, weights, label_weights, {site: ANNOTATED[site] for site in given}, SPACE)


def test_every_tensor_is_numpys_average_with_the_weights_of_its_classes():
    given = updates()
    found = mean(given)
    assert list(found) == list(SHAPES)
    for name, weights in EXPECTED.items():
        np.testing.assert_array_equal(found[name], average([given[s][name] for s in ANNOTATED], weights))
        assert found[name].dtype == np.float32


@pytest.mark.parametrize("name", ["output_block.conv.conv.weight", "output_block.conv.conv.bias"])
def test_every_row_of_an_output_layer_is_numpys_average_of_its_class(name):
    given = updates()
    found = mean(given)[name]
    assert found.shape == SHAPES[name]
    for row, weights in enumerate(ROWS):
        np.testing.assert_array_equal(found[row], average([given[s][name][row] for s in ANNOTATED], weights))


def test_the_published_sites_have_the_published_weights():
    """METHODS section 9: the encoder of the liver over LiTS, KiTS, pancreas, spleen and AMOS."""
    sites = {
        "a_lits": {"liver": 79},
        "b_kits": {},
        "c_pancreas": {},
        "d_spleen": {"spleen": 24},
        "e_amos": {"liver": 120},
    }
    for number, expected in enumerate((0.285714, 0.142857, 0.142857, 0.142857, 0.285714)):
        given = {s: {"encoders.liver.w": np.float32([i == number])} for i, s in enumerate(sites)}
        found = label_weighted_mean(given, dict.fromkeys(sites, 1.0), FED_MENU, sites, SPACE)
        assert found["encoders.liver.w"] == pytest.approx([expected], abs=1e-6)


def test_equal_weights_are_the_uniform_mean_bit_for_bit():
    given, uniform = updates(), dict.fromkeys(ANNOTATED, 1.0)
    found = mean(given, LabelWeights(annotated=1.0, other=1.0), uniform)
    expected = weighted_mean(given, uniform)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in SHAPES)


def test_the_order_of_arrival_changes_no_bit():
    given = updates()
    expected, checked = mean(given), 0
    for order in itertools.permutations(ANNOTATED):
        found = mean({site: given[site] for site in order})
        assert all(found[name].tobytes() == expected[name].tobytes() for name in SHAPES)
        checked += 1
    assert checked == 6


def test_the_weights_are_shared_among_the_sites_that_sent_an_update():
    given = updates()
    del given["full"]
    found = mean(given)["encoders.spleen.0.weight"]
    sent = [given[site]["encoders.spleen.0.weight"] for site in ("liver", "spleen")]
    np.testing.assert_array_equal(found, average(sent, [0.5, 1.0]))


def test_a_class_that_nobody_annotates_is_a_uniform_mean():
    given = updates()
    nobody = {site: {"liver": 1} for site in ANNOTATED}
    found = label_weighted_mean(given, WEIGHTS, FED_MENU, nobody, SPACE)["encoders.spleen.0.weight"]
    expected = weighted_mean(given, dict.fromkeys(ANNOTATED, 1.0))["encoders.spleen.0.weight"]
    assert found.tobytes() == expected.tobytes()


def test_no_update_is_refused():
    with pytest.raises(ValueError, match="no update to aggregate"):
        mean({})


def test_an_output_layer_of_other_rows_is_refused():
    given = {site: {"output_block.conv.conv.bias": np.zeros(5, np.float32)} for site in ANNOTATED}
    with pytest.raises(ValueError, match=r"output_block.*\(5,\).*each of 4 channels"):
        mean(given)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"annotated": 1.0}, "label_weights"),
        ({"annotated": 1.0, "other": 0.5, "more": 1.0}, "label_weights"),
        ([1.0, 0.5], "label_weights"),
        ({"annotated": 0, "other": 0.5}, "label_weights.annotated"),
        ({"annotated": 1.0, "other": -0.5}, "label_weights.other"),
        ({"annotated": 1.0, "other": "0.5"}, "label_weights.other"),
        ({"annotated": True, "other": 0.5}, "label_weights.annotated"),
        ({"annotated": float("nan"), "other": 0.5}, "label_weights.annotated"),
        ({"annotated": float("inf"), "other": 0.5}, "label_weights.annotated"),
    ],
)
def test_wrong_weights_are_refused_by_name(given, field):
    with pytest.raises(ConfigError) as caught:
        LabelWeights.from_json(given)
    assert caught.value.field == f"aggregator.{field}"
