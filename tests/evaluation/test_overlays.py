"""Pictures: the same anatomy looks the same whatever the array's axes, in radiological convention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.overlays import overlay_picture, pick_cases
from fedpartial.evaluation.planes import plane, slices_of_interest, to_ras, views
from fedpartial.presets import ABDOMEN

SPACING = np.array([2.0, 1.0, 3.0])
RAS = np.diag([*SPACING, 1.0])


def turned(volume: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same RAS volume stored with permuted and flipped axes, and the affine that says so."""
    stored = volume.transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = RAS[:3, :3][:, order]
    for axis in (a for a in range(3) if flips[a]):
        stored = np.flip(stored, axis)
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    return stored, affine


ALL_48 = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


def test_all_48_orientations_show_the_same_anatomy(image, reference):
    expected = views(image, reference, reference, affine=RAS, space=ABDOMEN)
    for order, flips in ALL_48:
        (stored, affine), (labels, _) = turned(image, order, flips), turned(reference, order, flips)
        back, spacing = to_ras(stored, affine)
        np.testing.assert_array_equal(back, image)
        np.testing.assert_allclose(spacing, SPACING)
        for got, want in zip(views(stored, labels, labels, affine=affine, space=ABDOMEN), expected, strict=True):
            assert (got.name, got.pixel_mm) == (want.name, want.pixel_mm)
            np.testing.assert_array_equal(got.image, want.image)
            np.testing.assert_array_equal(got.reference, want.reference)
    assert len(ALL_48) == 48


def test_radiological_convention():
    """One marked voxel at the patient's right, front and top lies at the left and top of the pictures."""
    volume = np.zeros((5, 6, 7))
    volume[4, 5, 6] = 1
    assert plane(volume, 2, 6)[0, 0] == 1, "axial: right at the left, anterior at the top"
    assert plane(volume, 1, 5)[0, 0] == 1, "coronal: right at the left, superior at the top"
    assert plane(volume, 0, 4)[0, 0] == 1, "sagittal: anterior at the left, superior at the top"
    assert [plane(volume, axis, 0).shape for axis in (2, 1, 0)] == [(6, 5), (7, 5), (7, 6)]


def test_views_have_the_physical_size_of_the_cropped_body(image, reference):
    """Two slices of air in front are cropped: 16x2 mm, 12x1 mm, 12x3 mm are left."""
    axial, coronal, sagittal = views(image, reference, reference, affine=RAS, space=ABDOMEN)
    assert [v.size_mm for v in (axial, coronal, sagittal)] == [(32.0, 12.0), (32.0, 36.0), (12.0, 36.0)]


def test_slices_go_through_the_largest_lesion_else_organ_else_prediction(reference):
    lesion = ABDOMEN.index("liver_tumor")
    nothing = np.zeros_like(reference)
    assert all((np.take(reference, i, axis=a) == lesion).any() for a, i in _slices(reference, nothing))
    organs = np.where(reference == lesion, 0, reference)
    assert all((np.take(organs, i, axis=a) == 1).any() for a, i in _slices(organs, nothing))
    assert slices_of_interest(nothing, reference, ABDOMEN) == slices_of_interest(reference, nothing, ABDOMEN)
    assert slices_of_interest(nothing, nothing, ABDOMEN) == (8, 7, 6)


def test_picture_of_empty_labels_and_of_a_class_that_fills_the_slice(image):
    for labels in (np.zeros(image.shape, np.uint8), np.ones(image.shape, np.uint8)):
        png = overlay_picture(image, labels, labels, affine=RAS, space=ABDOMEN, title="a title with $ and _")
        assert png.startswith(b"\x89PNG\r\n")


def test_pictures_do_not_touch_the_state_of_pyplot(image, reference):
    from matplotlib import rcParams

    before = dict(rcParams)
    overlay_picture(image, reference, reference, affine=RAS, space=ABDOMEN, title="t")
    assert dict(rcParams) == before


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.5, 0.9, 0.1, 0.7], {"worst": 2, "median": 0, "best": 1}),
        ([None, 0.4], {"worst": 1, "median": 1, "best": 1}),
        ([None], {}),
        ([], {}),
    ],
)
def test_pick_cases(dice, expected):
    assert pick_cases([_case(value) for value in dice]) == expected


def _slices(reference, prediction):
    return enumerate(slices_of_interest(reference, prediction, ABDOMEN))


def _case(dice: float | None) -> CaseScores:
    """The second class has no Dice and must not count."""
    fields = {"hd95_mm": None, "assd_mm": None, "leakage": None}
    return CaseScores(
        dice={"liver": dice, "spleen": None},
        status={"liver": "absent" if dice is None else "scored", "spleen": "absent"},
        **{field: dict.fromkeys(("liver", "spleen"), value) for field, value in fields.items()},
    )
