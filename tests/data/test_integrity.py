"""Each fault is found, and all of them in one report."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from tiny_hospital import write_case, write_nifti, write_site

from fedpartial.data.integrity import check_site, raise_for_faults
from fedpartial.errors import ConfigError, DataFaults
from fedpartial.presets import ABDOMEN, get_preset

SHAPE = (8, 7, 6)
LABEL = np.zeros(SHAPE, dtype=np.uint8)
LABEL[2:4, 2:4, 2:4] = 1


def entry(root: Path, name: str, image: np.ndarray, label: np.ndarray, image_affine=None, label_affine=None) -> dict:
    write_nifti(root / f"{name}.nii.gz", image, image_affine)
    write_nifti(root / f"{name}_y.nii.gz", label, label_affine)
    return {"image": f"{name}.nii.gz", "label": f"{name}_y.nii.gz"}


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 50, SHAPE).astype(np.float32)


def with_value(array: np.ndarray, value: float, dtype=None) -> np.ndarray:
    array = array.astype(dtype or array.dtype)
    array[0, 0, 0] = value
    return array


def missing(root: Path) -> dict:
    made = entry(root, "missing", image(), LABEL)
    (root / made["image"]).unlink()
    return made


def truncated(root: Path) -> dict:
    made = entry(root, "truncated", image(), LABEL)
    path = root / made["image"]
    path.write_bytes(path.read_bytes()[:-200])
    return made


def without_checksum(root: Path) -> dict:
    """All voxels are there, only the end of the gzip stream is not: the copy was interrupted all the same."""
    made = entry(root, "checksum", image(), LABEL)
    path = root / made["image"]
    path.write_bytes(path.read_bytes()[:-8])
    return made


def corrupt(root: Path) -> dict:
    """One voxel's byte differs from what was compressed: only the checksum tells."""
    made = entry(root, "corrupt", image(), LABEL)
    path = root / made["image"]
    raw = gzip.decompress(path.read_bytes())
    data = bytearray(gzip.compress(raw, compresslevel=0))
    data[-100] ^= 1
    path.write_bytes(data)
    return made


def no_nifti(root: Path) -> dict:
    made = entry(root, "no_nifti", image(), LABEL)
    (root / made["label"]).write_bytes(b"not a NIfTI file")
    return made


def four_axes(root: Path) -> dict:
    return entry(root, "four_axes", image()[..., None], LABEL)


def colours(root: Path) -> dict:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return entry(root, "colours", rgb, LABEL)


def other_shape(root: Path) -> dict:
    return entry(root, "other_shape", image(), LABEL[:-1])


def other_affine(root: Path) -> dict:
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[0, 3] = 0.5
    return entry(root, "other_affine", image(), LABEL, None, moved)


def nan(root: Path) -> dict:
    return entry(root, "nan", with_value(image(), np.nan), LABEL)


def infinite(root: Path) -> dict:
    return entry(root, "infinite", with_value(image(), np.inf), LABEL)


def half_value(root: Path) -> dict:
    return entry(root, "half_value", image(), with_value(LABEL, 1.5, np.float32))


def unknown_value(root: Path) -> dict:
    return entry(root, "unknown_value", image(), with_value(LABEL, 9))


def negative_value(root: Path) -> dict:
    return entry(root, "negative_value", image(), with_value(LABEL, -1, np.int16))


def unknown_class(root: Path) -> dict:
    return {**entry(root, "unknown_class", image(), LABEL), "labels": ["spleen"]}


def contradiction(root: Path) -> dict:
    return {**entry(root, "contradiction", image(), with_value(LABEL, 2)), "labels": ["liver"]}


FAULTS = {
    missing: ("training[{i}].image", "no such file"),
    truncated: ("training[{i}].image", "EOFError"),
    without_checksum: ("training[{i}].image", "EOFError"),
    corrupt: ("training[{i}].image", "CRC"),
    no_nifti: ("training[{i}].label", "ImageFileError"),
    four_axes: ("shape", "(8, 7, 6, 1)"),
    colours: ("training[{i}].image", "one real number"),
    other_shape: ("shape", "(7, 7, 6)"),
    other_affine: ("affine", "0.5 mm"),
    nan: ("intensities", "1 NaN or infinite"),
    infinite: ("intensities", "1 NaN or infinite"),
    half_value: ("values", "1.5"),
    unknown_value: ("values", "9"),
    negative_value: ("values", "-1"),
    unknown_class: ("training[{i}].labels", "spleen"),
    contradiction: ("values", "2 (liver_tumor)"),
}


@pytest.mark.parametrize("break_case", FAULTS, ids=lambda f: f.__name__)
def test_each_fault_is_reported_once_with_its_remedy(break_case, tmp_path):
    site = write_site(tmp_path, {"training": [break_case(tmp_path)]})
    field, got = FAULTS[break_case]
    (fault,) = check_site(site, ABDOMEN)
    assert fault.field == field.format(i=0)
    assert got in str(fault)
    assert fault.remedy
    assert str(fault.file).startswith(str(tmp_path))


def test_all_faults_of_a_data_set_come_in_one_report(tmp_path):
    site = write_site(tmp_path, {"training": [break_case(tmp_path) for break_case in FAULTS]})
    faults = check_site(site, ABDOMEN)
    assert [fault.field for fault in faults] == [field.format(i=i) for i, (field, _) in enumerate(FAULTS.values())]
    with pytest.raises(DataFaults, match=f"{len(FAULTS)} fault") as error:
        raise_for_faults(faults)
    assert all(str(fault) in str(error.value) for fault in faults)


def test_a_case_with_two_faults_reports_both(tmp_path):
    both = entry(tmp_path, "both", with_value(image(), np.nan), with_value(LABEL, 9))
    faults = check_site(write_site(tmp_path, {"training": [both]}), ABDOMEN)
    assert [fault.field for fault in faults] == ["intensities", "values"]


def test_singular_affine(tmp_path):
    flat = np.diag([2.0, 2.0, 2.0, 1.0])
    made = entry(tmp_path, "flat", image(), LABEL)
    path = tmp_path / made["image"]
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[254:256] = (1).to_bytes(2, "little")  # sform_code
    raw[252:254] = (0).to_bytes(2, "little")  # qform_code
    flat[2, 2] = 0.0
    raw[280:328] = flat[:3].astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    faults = check_site(write_site(tmp_path, {"training": [made]}), ABDOMEN)
    assert [fault.field for fault in faults] == ["affine"]


def test_faultless_data_of_every_split_is_read(tmp_path):
    seen = []
    splits = {split: [write_case(tmp_path, split)] for split in ("training", "validation", "testing")}
    site = write_site(tmp_path, splits)
    assert check_site(site, ABDOMEN, lambda done, total, name: seen.append((done, total, name))) == []
    assert seen == [(1, 3, "training.nii.gz"), (2, 3, "validation.nii.gz"), (3, 3, "testing.nii.gz")]


def test_faults_in_testing_cases_count_too(tmp_path):
    site = write_site(tmp_path, {"training": [write_case(tmp_path, "good")], "testing": ["gone.nii.gz"]})
    (fault,) = check_site(site, ABDOMEN)
    assert fault.field == "testing[0].image"


def test_other_byte_order_and_scaled_integers_are_fine(tmp_path):
    made = entry(tmp_path, "big", image().astype(">i2"), LABEL.astype(">u2"))
    assert check_site(write_site(tmp_path, {"training": [made]}), ABDOMEN) == []


def test_background_values_are_allowed_and_a_wrong_site_file_is_no_data_fault(tmp_path):
    made = entry(tmp_path, "extra", image(), with_value(LABEL, 7))
    site = write_site(tmp_path, {"training": [made]}, {1: "liver", 7: "background"})
    assert check_site(site, ABDOMEN) == []
    with pytest.raises(ConfigError, match="livr"):
        check_site(write_site(tmp_path, {"training": [made]}, {1: "livr"}), ABDOMEN)


def test_a_value_that_means_both_sides_needs_a_case_that_annotates_both(tmp_path):
    space, root = get_preset("psmos").label_space, tmp_path / "data"
    labels = {1: "kidney", 2: "kidney_left", 3: "spleen"}
    cases = [
        ("both", LABEL, ["kidney"]),
        ("one", 2 * LABEL, ["kidney_left"]),
        ("organ and side", 2 * LABEL, ["kidney"]),
        ("contradiction", LABEL, ["kidney_left"]),
    ]
    entries = [{**entry(root, name.replace(" ", "_"), image(), label), "labels": own} for name, label, own in cases]
    found = check_site(write_site(root, {"training": entries}, labels), space)
    assert [(fault.file.name.split(".")[0], fault.got) for fault in found] == [
        ("contradiction_y", "1 (kidney)"),
    ]
