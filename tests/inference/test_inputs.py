"""What predict is given becomes scans with a name each; what is no image is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_hospital import write_nifti

from fedpartial.data.dicom import Series
from fedpartial.data.preprocess import Volume
from fedpartial.errors import DataFaults
from fedpartial.inference import inputs
from fedpartial.inference.inputs import find_scans
from fedpartial.inference.label_file import save_label

DICOM = b"\0" * 128 + b"DICM"


def image(path: Path) -> Path:
    return write_nifti(path, np.full((4, 3, 2), -5, dtype=np.int16))


def names(*given: Path) -> list[str]:
    found, faults = find_scans(given)
    assert not faults
    return [scan.name for scan in found]


def test_a_folder_stands_for_its_images_but_not_for_our_label_maps_or_hidden_files(tmp_path):
    image(tmp_path / "b.nii.gz"), image(tmp_path / "ä 1.nii"), image(tmp_path / ".hidden.nii")
    image(tmp_path / "below" / "c.nii.gz")
    save_label(np.ones((4, 3, 2), np.uint8), tmp_path / "b_labels.nii.gz", like=np.eye(4), names={1: "liver"})
    (tmp_path / "damaged.nii.gz").write_bytes(b"no gzip")
    (tmp_path / "notes.txt").write_text("none")
    assert names(tmp_path) == ["b", "damaged", "ä 1"]


def test_the_same_image_counts_once_and_two_of_one_name_are_refused(tmp_path):
    one, other = image(tmp_path / "x" / "ct.nii.gz"), image(tmp_path / "y" / "CT.nii")
    assert names(one, tmp_path / "x", tmp_path / "y" / ".." / "x") == ["ct"]
    with pytest.raises(DataFaults, match=r"CT\.nii: name: got 'CT', as of .*ct\.nii\.gz"):
        find_scans([one, other])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nowhere", None, "no such file or folder"),
        ("IM0001", DICOM, "one slice of a DICOM series; .*Give the folder"),
        ("notes.txt", b"text", r"a file of type \.txt"),
    ],
)
def test_what_is_no_image_is_named_as_what_it_is(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFaults, match=words):
        find_scans([tmp_path / name])
    found, faults = find_scans([image(tmp_path / "good.nii"), tmp_path / name])
    assert ([scan.name for scan in found], len(faults)) == (["good"], 1)


def test_a_folder_without_images_says_where_some_are(tmp_path):
    image(tmp_path / "imagesTr" / "a.nii.gz")
    with pytest.raises(DataFaults, match=r"folders below: give for example .*imagesTr"):
        find_scans([tmp_path])


def test_a_link_to_a_file_that_is_gone_is_named(tmp_path):
    image(tmp_path / "a.nii")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    found, (fault,) = find_scans([tmp_path])
    assert [scan.name for scan in found] == ["a"]
    assert (fault.file.name, fault.got) == ("gone.nii.gz", "no such file")
    (tmp_path / "a.nii").unlink()
    with pytest.raises(DataFaults, match=r"gone\.nii\.gz: input: got no such file"):
        find_scans([tmp_path])


@pytest.fixture
def hospital(tmp_path, monkeypatch):
    """patient/CT has one series, patient/more two of one number, patient/broken a fault; none is really read."""
    number_of = {"CT": 1, "more": 2}

    def find_series(folder: Path) -> list[Series]:
        if folder.name == "broken":
            raise DataFaults([f"{folder.name}: slices: missing"])
        parts = {"description": "series 3, 2 slice(s)", "modality": "CT", "folder": folder, "slices": ()}
        return [Series(uid=f"{folder.name}{n}", **parts) for n in range(number_of[folder.name])]

    monkeypatch.setattr(inputs, "find_series", find_series)
    for folder in ("CT", "more", "broken", ".cache"):
        (tmp_path / "patient" / folder).mkdir(parents=True)
        (tmp_path / "patient" / folder / "IM1").write_bytes(DICOM)
    return tmp_path / "patient"


def test_series_are_called_after_their_folders(hospital):
    found, faults = find_scans([hospital])
    assert [scan.name for scan in found] == ["patient-CT", "patient-more-series_3-1", "patient-more-series_3-2"]
    assert faults == ["broken: slices: missing"]
    assert names(hospital / "CT") == ["CT"]
    assert len({scan.source for scan in found}) == 3, "two series of one folder are two images"


def test_a_series_in_another_unit_is_refused_when_it_is_loaded(hospital, monkeypatch):
    volume = Volume(array=np.zeros((4, 3, 2), np.float32), affine=np.diag([900.0, 900, 900, 1]))
    monkeypatch.setattr(inputs, "load_series", lambda series: volume)
    (scan,), _ = find_scans([hospital / "CT"])
    with pytest.raises(DataFaults, match="Is its header in another unit"):
        scan.load()


def test_an_image_with_nan_is_refused_when_it_is_loaded(tmp_path):
    array = np.zeros((4, 3, 2), dtype=np.float32)
    array[1, 1, 1] = np.nan
    (scan,), _ = find_scans([write_nifti(tmp_path / "a.nii", array)])
    with pytest.raises(DataFaults, match="1 NaN or infinite"):
        scan.load()
    assert scan.stamp["files"] == 1
