"""The sheet of cases: which slice is shown, that it stands as a radiologist expects it, and that it can be drawn."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from fedpartial.evaluation.case_sheet import case_sheet, cut_panel

AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])
CHANNELS = {1: 1, 2: 2, 7: 0}


def scan() -> tuple[np.ndarray, np.ndarray]:
    """A body with the organ (1) at the patient's right, largest in slice 4, and a lesion (2) in slice 1."""
    image = np.full((12, 10, 6), 40.0, dtype=np.float32)
    label = np.zeros(image.shape, dtype=np.uint8)
    label[8:11, 2:5, 2:5] = 1
    label[7:11, 2:6, 4] = 1
    label[3:5, 6:8, 1] = 2
    label[:, :, 5] = 7
    return image, label


def test_the_slice_goes_through_the_largest_structure_that_is_drawn():
    image, label = scan()
    panel = cut_panel(image, label, AFFINE, CHANNELS, name="a")
    assert panel.note == "slice 5 of 6, 2 x 3 x 5 mm"
    assert (panel.channels == 1).sum() == 16
    assert cut_panel(image, label, AFFINE, {1: 0, 2: 1}, name="a").note.startswith("slice 2 of 6")
    assert cut_panel(image, None, AFFINE, CHANNELS, name="a").note.startswith("slice 4 of 6")


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR"])
def test_the_patients_right_is_at_the_left_whatever_the_order_of_the_file(codes):
    image, label = scan()
    expected = cut_panel(image, label, AFFINE, CHANNELS, name="a")
    columns, rows = np.nonzero(expected.channels.T)
    assert columns.max() < 6
    assert rows.min() >= 4  # posterior is below
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = [nibabel.Nifti1Image(array, AFFINE).as_reoriented(turn) for array in (image, label)]
    found = cut_panel(*(np.asarray(one.dataobj) for one in turned), turned[0].affine, CHANNELS, name="a")
    np.testing.assert_array_equal(found.channels, expected.channels)
    assert (found.pixel_mm, found.note) == (expected.pixel_mm, expected.note)


def test_a_sheet_takes_any_name_and_any_number_of_cases():
    image, label = scan()
    names = ["ct.nii.gz", "Müller 肝 $1$.nii.gz", "a" * 90, "<b>&.nii.gz", "five"]
    panels = [cut_panel(image, label, AFFINE, CHANNELS, name=name) for name in names]
    png = case_sheet(panels, {"liver": 1, "liver_tumor": 2}, title="site _x")
    assert png.startswith(b"\x89PNG")
    assert png != case_sheet(panels[::-1], {"liver": 1, "liver_tumor": 2}, title="site _x")
