"""DICOM series as volumes: voxels and places of every direction, and one clear fault for what is no volume."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import change, ct_header, slice_of, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy.spatial.transform import Rotation

from fedpartial.data.dicom import find_series, load_series
from fedpartial.errors import DataFaults

SHAPE = (5, 4, 6)
HU = np.random.default_rng(0).integers(-1024, 2000, SHAPE).astype(np.int16)
AXIAL = np.diag([-0.8, -0.7, 2.5, 1.0])
AXIAL[:3, 3] = 40.0, 30.0, -120.0


def right_handed() -> dict[str, np.ndarray]:
    """DICOM's slices follow each other along the cross product of rows and columns, so axes are right-handed."""
    found = {}
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            directions = np.zeros((3, 3))
            directions[list(axes), range(3)] = signs
            if np.linalg.det(directions) > 0:
                name = "".join(("LR", "PA", "IS")[a][s > 0] for a, s in zip(axes, signs, strict=True))
                found[name] = with_axes(directions)
    found["oblique"] = with_axes(Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix())
    return found


def with_axes(directions: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * (0.8, 0.7, 2.5), (12.5, -7.25, 3.0)
    return affine


AFFINES = right_handed()


def only(folder: Path):
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_series_is_the_volume_that_was_written_in_every_direction(tmp_path, affine):
    write_series(tmp_path, HU, affine)
    volume = load_series(only(tmp_path))
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_a_voxel_lies_where_dicom_says(tmp_path):
    """By hand from ImagePositionPatient (L P S): 3 columns right, 2 rows down, slice 4."""
    write_series(tmp_path, HU, AXIAL)
    volume = load_series(only(tmp_path))
    left, posterior, superior = -40.0 + 3 * 0.8, -30.0 + 2 * 0.7, -120.0 + 4 * 2.5
    np.testing.assert_allclose(volume.affine @ [3, 2, 4, 1], [-left, -posterior, superior, 1])
    stored = next(d for d in map(pydicom.dcmread, tmp_path.iterdir()) if float(d.ImagePositionPatient[2]) == superior)
    assert volume.array[3, 2, 4] == stored.pixel_array[2, 3] - 1024


@pytest.mark.parametrize(
    ("attributes", "dtype"),
    [
        ({"PixelRepresentation": 0}, np.int16),
        ({"RescaleIntercept": 0}, np.int16),
        ({"RescaleSlope": 0.5, "RescaleIntercept": -1000}, np.float32),
    ],
)
def test_numbers_become_hu(tmp_path, attributes, dtype):
    write_series(tmp_path, HU, AXIAL, **attributes)
    volume = load_series(only(tmp_path))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, HU)


def test_every_slice_has_its_own_rescale(tmp_path):
    write_series(tmp_path, HU, AXIAL, names=[f"{n}" for n in range(6)])
    change(tmp_path / "2", RescaleSlope=2, RescaleIntercept=-900)
    change(tmp_path / "5", RescaleSlope=40, RescaleIntercept=0)
    volume = load_series(only(tmp_path))
    np.testing.assert_array_equal(volume.array[..., 2], 2 * (HU[..., 2] + 1024) - 900)
    np.testing.assert_array_equal(volume.array[..., 5], 40.0 * (HU[..., 5] + 1024))
    np.testing.assert_array_equal(volume.array[..., :2], HU[..., :2])


def test_other_files_lie_beside_and_a_copy_of_a_slice_counts_once(tmp_path):
    write_series(tmp_path, HU, AXIAL, names=[f"slice {n} ä" for n in range(6)])
    shutil.copy(tmp_path / "slice 3 ä", tmp_path / "slice 3 ü copy")
    (tmp_path / "readme.txt").write_text("short")
    (tmp_path / ".hidden").write_bytes(b"\0" * 128 + b"DICM broken")
    ct_header("1.2.3", Modality="SR").save_as(tmp_path / "report", enforce_file_format=True)
    scout = slice_of(HU, AXIAL, 0, "1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.save_as(tmp_path / "scout", enforce_file_format=True)
    (tmp_path / "below").mkdir()
    series = only(tmp_path)
    assert [file.name for file in series.files] == [f"slice {n} ä" for n in range(6)]
    np.testing.assert_array_equal(load_series(series).array, HU)


def test_two_series_and_two_orientations_of_one_are_told_apart(tmp_path):
    first = write_series(tmp_path, HU, AXIAL, number=7)
    second = write_series(tmp_path, HU[:, :, :3] + 5, AXIAL, number=2)
    write_series(tmp_path, HU[:, :, :2], AFFINES["oblique"], number=7, series=first, names=["a", "b"])
    found = find_series(tmp_path)
    assert [(s.uid, len(s.slices)) for s in found] == [(second, 3), (first, 6), (f"{first}#2", 2)]
    assert [s.description for s in found] == ["series 2, 3 slice(s)", "series 7, 6 slice(s)", "series 7, 2 slice(s)"]
    np.testing.assert_array_equal(load_series(found[0]).array, HU[:, :, :3] + 5)
    np.testing.assert_allclose(load_series(found[2]).affine, AFFINES["oblique"], atol=1e-5)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path, HU[:, :, :1], AXIAL)
    assert load_series(only(tmp_path)).affine[2, 2] == 5
    write_series(tmp_path / "thin", HU[:, :, :1], AXIAL, SliceThickness=None)
    assert "SliceThickness: got none" in refusal(tmp_path / "thin")


def test_the_progress_of_reading(tmp_path):
    write_series(tmp_path, HU, AXIAL)
    seen = []
    load_series(only(tmp_path), lambda *done: seen.append(done))
    assert seen == [(n + 1, 6) for n in range(6)]


def test_compressed_slices_are_decoded(tmp_path):
    write_series(tmp_path, HU, AXIAL)
    for path in tmp_path.iterdir():
        one = pydicom.dcmread(path)
        one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        one.save_as(path)
    np.testing.assert_array_equal(load_series(only(tmp_path)).array, HU)


def test_another_modality_is_remarked_and_ct_is_not(tmp_path):
    write_series(tmp_path / "ct", HU, AXIAL)
    write_series(tmp_path / "mr", HU, AXIAL, Modality="MR")
    assert only(tmp_path / "ct").remark is None
    assert "modality MR" in only(tmp_path / "mr").remark


def test_an_enhanced_file_holds_all_slices(tmp_path):
    """Shared and per-frame attributes (PS3.3, C.7.6.16), frames not in the order of their place."""
    order = [2, 0, 5, 3, 1, 4]
    single = [slice_of(HU, AXIAL, index, "1.2.3") for index in order]
    file = ct_header("1.2.3", RescaleSlope=None, RescaleIntercept=None, SliceThickness=None)
    file.Rows, file.Columns, file.NumberOfFrames = single[0].Rows, single[0].Columns, 6
    file.PixelData = b"".join(one.PixelData for one in single)
    file.SharedFunctionalGroupsSequence = Sequence([shared_groups(single[0])])
    file.PerFrameFunctionalGroupsSequence = Sequence([frame_groups(one) for one in single])
    file.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    volume = load_series(only(tmp_path))
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, AXIAL, atol=1e-5)


def item(**attributes) -> Sequence:
    one = Dataset()
    for name, value in attributes.items():
        setattr(one, name, value)
    return Sequence([one])


def shared_groups(one: Dataset) -> Dataset:
    groups = Dataset()
    groups.PlaneOrientationSequence = item(ImageOrientationPatient=one.ImageOrientationPatient)
    groups.PixelMeasuresSequence = item(PixelSpacing=one.PixelSpacing, SliceThickness=5)
    groups.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=-1024)
    return groups


def frame_groups(one: Dataset) -> Dataset:
    groups = Dataset()
    groups.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
    return groups


def refusal(folder: Path) -> str:
    with pytest.raises(DataFaults) as raised:
        load_series(only(folder))
    text = str(raised.value)
    assert "Jane" not in text, "no patient's name in a message"
    return text


def test_missing_slices_are_counted_and_placed(tmp_path):
    write_series(tmp_path, HU, AXIAL, leave_out=(3,), names=[f"{n}.dcm" for n in range(6)])
    assert "1 slice(s) missing between 2.dcm and 4.dcm (5 mm)" in refusal(tmp_path)


def test_uneven_distances_are_no_missing_slices(tmp_path):
    write_series(tmp_path, HU, AXIAL, names=[f"{n}.dcm" for n in range(6)])
    change(tmp_path / "5.dcm", ImagePositionPatient=[-40, -30, -120 + 5 * 2.5 + 0.9])
    assert "got 3.4 mm between 4.dcm and 5.dcm; expected 2.5 mm" in refusal(tmp_path)


def test_two_slices_at_one_place_are_two_phases(tmp_path):
    series = write_series(tmp_path, HU, AXIAL)
    write_series(tmp_path, HU + 1, AXIAL, series=series, names=[f"late{n}" for n in range(6)])
    assert "6 slice(s) where another lies" in refusal(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path):
    write_series(tmp_path, HU, AXIAL, names=[f"{n}" for n in range(6)])
    for n in range(6):
        change(tmp_path / f"{n}", ImagePositionPatient=[-40, -30 + 0.4 * n, -120 + 2.5 * n])
    assert "slices up to 2 mm beside each other (5; a tilted gantry does this)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"RescaleSlope": None}, "no slope and intercept"),
        ({"PixelData": None}, "holds no image"),
        ({"PixelSpacing": [0.7, 0.9]}, "PixelSpacing: got (0.7, 0.9) mm"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
    ],
)
def test_a_file_that_is_no_slice_of_ct_is_named(tmp_path, attributes, words):
    write_series(tmp_path, HU, AXIAL, names=[f"{n}" for n in range(6)])
    changed = ["4"] if "Orientation" not in next(iter(attributes)) else [f"{n}" for n in range(6)]
    for name in changed:
        header = pydicom.dcmread(tmp_path / name)
        for field, value in attributes.items():
            if value is None:
                delattr(header, field)
            else:
                setattr(header, field, value)
        header.save_as(tmp_path / name, enforce_file_format=True)
    text = refusal(tmp_path)
    assert words in text
    assert str(tmp_path / changed[0]) in text


@pytest.mark.parametrize("kept", [0.2, 0.97])
def test_a_file_cut_short_is_named(tmp_path, kept):
    write_series(tmp_path, HU, AXIAL, names=[f"{n}" for n in range(6)])
    whole = (tmp_path / "1").read_bytes()
    (tmp_path / "1").write_bytes(whole[: int(kept * len(whole))])
    text = refusal(tmp_path)
    assert "missing" in text or str(tmp_path / "1") in text
