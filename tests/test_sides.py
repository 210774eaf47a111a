"""Right and left of a paired organ: every rule on blobs of known place, in every storage order."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.sides import split_sides

RAS = np.array([[3.0, 0, 0, -90], [0, 4, 0, 20], [0, 0, 5, -300], [0, 0, 0, 1]])
LPS = np.array([[-3.0, 0, 0, 90], [0, -4, 0, 60], [0, 0, 5, -300], [0, 0, 0, 1]])
PERMUTED = np.array([[0, 0, 3.0, -90], [5, 0, 0, -300], [0, -4, 0, 60], [0, 0, 0, 1]])
TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
AFFINES = {"RAS": RAS, "LPS": LPS, "permuted": PERMUTED, "oblique": TURN @ RAS, "oblique LPS": TURN @ LPS}
SHAPE = (61, 21, 25)


def x_of(affine: np.ndarray, shape=SHAPE) -> np.ndarray:
    """World x (H W D) of every voxel."""
    return np.einsum("a,a...->...", affine[0, :3], np.indices(shape)) + affine[0, 3]


def middle_of(affine: np.ndarray, shape=SHAPE) -> float:
    return float(affine[0, :3] @ ((np.array(shape) - 1) / 2) + affine[0, 3])


def shape_of(affine: np.ndarray) -> tuple[int, ...]:
    return (25, 21, 61) if affine is PERMUTED else SHAPE


def blob(affine: np.ndarray, offset_mm: float, half_mm: float = 12.0, height_mm: float = 20.0) -> np.ndarray:
    """A box around the scan's middle, moved by offset_mm to the patient's right."""
    shape = shape_of(affine)
    away = np.einsum("ab,b...->a...", affine[:3, :3], np.indices(shape))
    away -= (affine[:3, :3] @ ((np.array(shape) - 1) / 2)).reshape(3, 1, 1, 1)
    return (abs(away[0] - offset_mm) <= half_mm) & (abs(away[1:]) <= height_mm).all(axis=0)


@pytest.fixture(params=AFFINES.values(), ids=AFFINES)
def affine(request):
    return request.param


def check(mask: np.ndarray, affine: np.ndarray, right: np.ndarray) -> None:
    """``right`` is what must come out; left is the rest, and together they are the mask."""
    found = split_sides(mask, affine)
    assert [side.dtype for side in found] == [np.bool_, np.bool_]
    np.testing.assert_array_equal(found[0], right)
    np.testing.assert_array_equal(found[1], mask & ~right)


def test_two_kidneys_are_told_apart_wherever_the_scan_lies(affine):
    """Both on the same side of the scan's middle: their own midline counts."""
    right, left = blob(affine, 75), blob(affine, 15)
    assert right.any()
    assert left.any()
    check(right | left, affine, right)


def test_the_patients_right_is_where_x_grows(affine):
    right, _ = split_sides(blob(affine, 45) | blob(affine, -45), affine)
    x = x_of(affine, shape_of(affine))[right]
    assert x.min() > middle_of(affine, shape_of(affine))


@pytest.mark.parametrize("offset", [50, -50])
def test_a_single_kidney_has_the_side_of_the_scan_it_lies_on(affine, offset):
    mask = blob(affine, offset)
    check(mask, affine, mask if offset > 0 else np.zeros_like(mask))


def test_the_pieces_of_one_kidney_are_no_pair(affine):
    """Less than 40 mm apart along the right-left axis: both are on the right, though a pair's midline lies between."""
    mask = blob(affine, 60, half_mm=7) | blob(affine, 32, half_mm=7)
    check(mask, affine, mask)


def test_a_kidney_and_a_far_speck_are_no_pair(affine):
    """Both lie on the right; a midline between them would make the kidney a left one."""
    kidney, speck = blob(affine, 20, half_mm=18), blob(affine, 75, half_mm=3, height_mm=5)
    assert 0 < speck.sum() < 0.1 * kidney.sum()
    check(kidney | speck, affine, kidney | speck)


def test_specks_go_to_the_side_they_lie_on(affine):
    right, left = blob(affine, 75), blob(affine, 10)
    near_right, near_left = (blob(affine, offset, half_mm=2, height_mm=2) for offset in (50, 33))
    assert near_right.any()
    assert near_left.any()
    check(right | left | near_right | near_left, affine, right | near_right)


def test_a_horseshoe_kidney_is_divided_at_the_middle(affine):
    mask = blob(affine, 5, half_mm=60)
    shape = shape_of(affine)
    check(mask, affine, mask & (x_of(affine, shape) >= middle_of(affine, shape)))


@pytest.mark.parametrize("offset", [4, -4])
def test_a_single_kidney_in_the_middle_of_a_cropped_scan_is_not_cut_in_two(affine, offset):
    """The scan ends beside it: its middle says nothing of the patient's, but a kidney has one side."""
    mask = blob(affine, offset, half_mm=30)
    check(mask, affine, mask if offset > 0 else np.zeros_like(mask))


def test_a_piece_between_a_pair_of_kidneys_is_still_divided(affine):
    """Narrow, but their midline is the patient's: what lies on both sides of it belongs to both."""
    right, left = blob(affine, 75), blob(affine, -15)
    bridge = blob(affine, 30, half_mm=20, height_mm=8)
    x, shape = x_of(affine, shape_of(affine)), shape_of(affine)
    mask = right | left | bridge
    middle = middle_of(affine, shape) + 30
    check(mask, affine, mask & (x >= middle))


def test_a_kidney_that_crosses_the_middle_a_little_is_not_divided(affine):
    mask = blob(affine, 30, half_mm=36)
    assert (mask & (x_of(affine, mask.shape) < middle_of(affine, mask.shape))).any()
    check(mask, affine, mask)


def test_voxels_that_touch_at_a_corner_are_one_kidney():
    """Two boxes that share one corner, the smaller beyond the middle: apart they would be on two sides."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[31:45, 5:10, 5:10] = True
    mask[27:31, 10:12, 10:12] = True
    check(mask, RAS, mask)
    mask[30, 10, 10] = False
    assert split_sides(mask, RAS)[1].sum() == 15


def test_the_storage_order_in_memory_changes_nothing():
    mask = blob(RAS, 45) | blob(RAS, -45) | blob(RAS, 20, half_mm=3)
    first, second = split_sides(mask, RAS), split_sides(np.asfortranarray(mask), RAS)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.any()


def test_an_empty_mask_has_two_empty_sides(affine):
    check(np.zeros(SHAPE, dtype=bool), affine, np.zeros(SHAPE, dtype=bool))


def test_a_mask_that_fills_the_scan_is_divided():
    right, left = split_sides(np.ones((4, 3, 2), dtype=bool), np.diag([40.0, 1, 1, 1]))
    assert right[2:].all()
    assert left[:2].all()
    assert not (right & left).any()
