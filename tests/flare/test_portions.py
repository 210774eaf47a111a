"""Models travel for evaluation in portions of bounded size."""

import numpy as np
import pytest

from fedpartial.flare.final_evaluation import portions

MODELS = {f"m{i}": {"a": np.zeros(n, np.uint8)} for i, n in enumerate((3, 4, 5, 1, 20, 2))}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1000, [["m0", "m1", "m2", "m3", "m4", "m5"]]),
        (35, [["m0", "m1", "m2", "m3", "m4", "m5"]]),
        (34, [["m0", "m1", "m2", "m3", "m4"], ["m5"]]),
        (8, [["m0", "m1"], ["m2", "m3"], ["m4"], ["m5"]]),
        (7, [["m0", "m1"], ["m2", "m3"], ["m4"], ["m5"]]),
        (1, [["m0"], ["m1"], ["m2"], ["m3"], ["m4"], ["m5"]]),
    ],
)
def test_portions_keep_the_order_and_the_limit(limit, expected):
    found = list(portions(MODELS, limit))
    assert [list(portion) for portion in found] == expected
    assert all(portion[name] is MODELS[name] for portion in found for name in portion)


def test_no_model_is_no_portion():
    assert list(portions({}, 10)) == []
