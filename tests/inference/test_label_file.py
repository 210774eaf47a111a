"""Label maps keep their image's geometry exactly, and viewers know names and colours."""

from __future__ import annotations

import gzip
import os

import nibabel
import numpy as np
import pytest

from fedpartial.data.label_names import read_facts, read_names
from fedpartial.data.preprocess import Volume
from fedpartial.evaluation.colours import COLOURS
from fedpartial.inference.label_file import (
    itksnap_labels,
    replacing,
    save_colours,
    save_image,
    save_label,
    slicer_table,
)

LABEL = (np.arange(24) % 3).astype(np.uint8).reshape(2, 3, 4)
NAMES = {1: "liver", 2: "liver_tumor"}
OBLIQUE = np.array([[0, -1.9, 0.4, 7], [1.5, 0, 0, -3], [0, 0.6, 2.9, 11], [0, 0, 0, 1.0]])
GEOMETRY = ("dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x")
ROWS = ("qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(2, 1), (0, 1), (1, 0), (0, 0)])
def test_every_field_of_the_geometry_is_the_images(tmp_path, kind, sform, qform):
    image = kind(LABEL.astype(np.int16) * 100, OBLIQUE)
    image.set_sform(OBLIQUE if sform else None, sform)
    image.set_qform(OBLIQUE if qform else None, qform)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, -1024.0)
    image.header["cal_max"] = 400
    texts = [name for name in image.header if image.header[name].dtype.kind == "S" and name != "magic"]
    for name in texts:
        image.header[name] = b"Mueller^Hans"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Mueller^Hans"))
    nibabel.save(image, tmp_path / "ct.nii.gz")
    save_label(LABEL, tmp_path / "l.nii.gz", like=tmp_path / "ct.nii.gz", names=NAMES, model="m")
    source, found = nibabel.load(tmp_path / "ct.nii.gz"), nibabel.load(tmp_path / "l.nii.gz")
    for field in (*GEOMETRY, *ROWS):
        np.testing.assert_array_equal(found.header[field], source.header[field], err_msg=field)
    np.testing.assert_array_equal(found.affine, source.affine)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), LABEL)
    assert (type(found), found.get_data_dtype()) == (kind, np.uint8)
    assert (int(found.header["intent_code"]), float(found.header["cal_max"])) == (1002, 0.0)
    assert len(texts) >= 3
    assert b"Muelle" in gzip.decompress((tmp_path / "ct.nii.gz").read_bytes())
    assert b"Mue" not in gzip.decompress((tmp_path / "l.nii.gz").read_bytes())
    assert read_names(tmp_path / "l.nii.gz") == NAMES
    assert read_facts(tmp_path / "l.nii.gz")["model"] == "m"


def test_an_affine_is_enough_and_a_tilted_gantry_has_no_false_qform(tmp_path):
    tilted = np.diag([2.0, 2.0, 5.0, 1.0])
    tilted[1, 2] = 1.2
    for affine, code in ((np.diag([-2.0, -2, 5, 1]), 1), (tilted, 0)):
        save_label(LABEL, tmp_path / "l.nii", like=affine, names=NAMES)
        found = nibabel.load(tmp_path / "l.nii")
        np.testing.assert_allclose(found.affine, affine)
        assert (int(found.header["qform_code"]), found.header.get_xyzt_units()[0]) == (code, "mm")


@pytest.mark.parametrize(("value", "dtype"), [(-1024.0, np.int16), (0.5, np.float32), (40000.0, np.float32)])
def test_an_image_loses_nothing(tmp_path, value, dtype):
    array = np.full((2, 3, 4), value, dtype=np.float32)
    save_image(Volume(array=array, affine=OBLIQUE), tmp_path / "ct.nii.gz")
    found = nibabel.load(tmp_path / "ct.nii.gz")
    assert found.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), array)


def test_what_fails_half_way_leaves_the_old_file(tmp_path):
    def write_half() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_an_error_of_the_system_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"'[^']*[/\\]a\.txt'") as error, replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
    assert str(os.getpid()) not in error.value.filename.rpartition("/")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_viewers_get_the_colours_of_every_picture(tmp_path):
    """Formats by 3D Slicer's developer guide (Colors) and ITK-SNAP's own files: eight columns, the name in quotes."""
    red, green, blue = bytes.fromhex(COLOURS["liver_tumor"][1:])
    table = slicer_table(NAMES).splitlines()
    assert table[0].startswith("# Color table file")
    assert table[2:] == ["0 background 0 0 0 0", "1 liver 191 74 48 255", f"2 liver_tumor {red} {green} {blue} 255"]
    rows = [line for line in itksnap_labels(NAMES).splitlines() if not line.startswith("#")]
    assert rows[0].endswith('"Clear Label"')
    assert rows[2] == f'2 {red} {green} {blue} 1 1 1 "liver tumor"'
    written = save_colours(tmp_path, "labels", NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
