"""Side by side: every method shows the same slices, whatever its label space."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fedpartial.evaluation.comparison_overlays import side_by_side
from fedpartial.presets import ABDOMEN

AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])


def picture(image, reference, predictions, **options) -> np.ndarray:
    png = side_by_side(image, reference, predictions, affine=AFFINE, space=ABDOMEN, title="t", **options)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_another_label_space_is_drawn_by_the_names_of_its_classes(image, reference):
    """A spleen is channel 3 of all classes and channel 2 without lesions; the drawn picture is the same."""
    organs = np.where(reference == ABDOMEN.index("liver_tumor"), ABDOMEN.index("liver"), reference).astype(np.uint8)
    merged = ABDOMEN.merge_channels(reference)
    assert (merged != organs).any()
    by_name = picture(image, reference, {"union": merged}, spaces={"union": ABDOMEN.merged}, planes=["coronal"])
    np.testing.assert_array_equal(by_name, picture(image, reference, {"union": organs}, planes=["coronal"]))
    assert (by_name != picture(image, reference, {"union": merged}, planes=["coronal"])).any()


def test_slices_do_not_depend_on_the_methods(image, reference):
    """The image's and the reference's panel are the same beside a right and a wrong prediction."""
    right = picture(image, reference, {"a": reference}, planes=["coronal"])
    wrong = picture(image, reference, {"a": np.roll(reference, 4, axis=1)}, planes=["coronal"])
    two_panels = right.shape[1] * 2 // 3 - 10
    np.testing.assert_array_equal(right[:, :two_panels], wrong[:, :two_panels])
    assert (right != wrong).any()


def test_panels_wrap_after_six(image, reference):
    """The image and the reference take two of the six places of a line."""

    def size(methods: int) -> tuple[int, int]:
        given = {f"method {i}, a long name": reference for i in range(methods)}
        return picture(image, reference, given, planes=["axial"]).shape[:2]

    (one_line, three), (full, six), (two_lines, wide) = (size(n) for n in (1, 4, 5))
    assert one_line == full < two_lines < 2 * one_line
    assert six == wide == pytest.approx(2 * three, abs=10)


def test_a_case_without_a_reference_is_drawn_too(image, reference):
    nothing = np.zeros_like(reference)
    assert picture(image, nothing, {"a": reference, "b": nothing}, planes=["axial"]).shape[2] == 3
