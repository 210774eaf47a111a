"""The server's own images: from its file, else the phantom's."""

import json
from dataclasses import replace

import pytest
from tiny_hospital import write_case

from fedpartial.distillation.public_volumes import public_volumes
from fedpartial.errors import ConfigError, DataFaults
from fedpartial.phantom import PHANTOM_SITES, profiles
from fedpartial.presets import get_preset

PRESET = replace(get_preset("phantom_mmds"), spacing_mm=(2.0, 2.0, 2.0))


def server(tmp_path, training, **changes):
    """The local folder of a server with a public.json over two images."""
    for number in range(2):
        write_case(tmp_path / "data", f"ct{number}", seed=number)
    (tmp_path / "data" / "datalist.json").write_text(json.dumps({"training": training}))
    (tmp_path / "sites").mkdir()
    given = {"data_root": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache"), **changes}
    (tmp_path / "sites" / "public.json").write_text(json.dumps(given))
    return tmp_path


IMAGES = [{"image": "ct0.nii.gz"}, "ct1.nii.gz"]


def test_a_servers_file_names_images_and_no_labels(tmp_path):
    reports = []
    volumes = public_volumes(
        server(tmp_path, IMAGES), PRESET, phantom=False, progress=lambda *report: reports.append(report)
    )
    assert [(volume.image.ndim, volume.label) for volume in volumes] == [(3, None)] * 2
    assert reports == [("prepared case", 1, 2), ("prepared case", 2, 2)]


def test_a_prepared_volume_is_not_prepared_again(tmp_path):
    first = public_volumes(server(tmp_path, IMAGES), PRESET, phantom=False)
    again = public_volumes(tmp_path, PRESET, phantom=True, progress=lambda *_: pytest.fail("prepared again"))
    assert [volume.folder for volume in again] == [volume.folder for volume in first]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ([{"image": "ct0.nii.gz", "label": "ct0_label.nii.gz"}], r"training\[0\].*unlabelled data"),
        ([{"image": "ct0.nii.gz", "labels": ["liver"]}], r"training\[0\].*unlabelled data"),
        ([], "at least one image"),
        ([{"image": 3}], "path relative to data_root"),
        (["ct0.nii.gz", 7], "a JSON object"),
    ],
)
def test_a_wrong_list_is_refused_and_its_entry_named(tmp_path, training, message):
    with pytest.raises(ConfigError, match=message) as caught:
        public_volumes(server(tmp_path, training), PRESET, phantom=False)
    assert str(tmp_path / "data" / "datalist.json") in str(caught.value)


def test_a_missing_image_is_a_fault_of_the_data(tmp_path):
    with pytest.raises(DataFaults, match=r"ct9\.nii\.gz"):
        public_volumes(server(tmp_path, ["ct9.nii.gz"]), PRESET, phantom=False)


def test_labels_in_the_servers_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="labels"):
        public_volumes(server(tmp_path, IMAGES, labels={"1": "liver"}), PRESET, phantom=False)


def test_without_a_file_the_error_says_what_to_write(tmp_path):
    with pytest.raises(ConfigError, match=r"public\.json with.*data_root"):
        public_volumes(tmp_path, PRESET, phantom=False)


def test_without_a_file_the_phantom_has_public_images(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPARTIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(profiles.PHANTOM_SITES, "public", replace(PHANTOM_SITES["public"], training=1))
    reports = []
    volumes = public_volumes(
        tmp_path, replace(PRESET, spacing_mm=(12.0,) * 3), phantom=True, progress=lambda *r: reports.append(r)
    )
    assert [volume.label for volume in volumes] == [None]
    assert reports == [("phantom case", 1, 1), ("prepared case", 1, 1)]
