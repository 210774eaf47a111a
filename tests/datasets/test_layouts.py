"""Every published layout: found, named, split, written and read again without a fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from layouts import LAYOUTS, write_layout, write_pair

from fedpartial.data.datalist import SPLITS, read_datalist
from fedpartial.data.integrity import Inspector
from fedpartial.datasets.catalogue import get_layout
from fedpartial.datasets.dataset_json import read_structures
from fedpartial.datasets.recognise import find_data_set, resembles
from fedpartial.datasets.site_writer import SitePlace, write_site_files
from fedpartial.datasets.splits import assign, parse_rule
from fedpartial.datasets.structures import class_names
from fedpartial.errors import ConfigError
from fedpartial.presets import get_preset
from fedpartial.sites import read_site_file

UNLABELLED = {"msd-liver": 2, "msd-pancreas": 2, "msd-spleen": 2, "kits19": 2, "kits23": 2, "word": 0, "folders": 0}
FOLDER_LABELS = {1: "liver", 2: "liver_tumor"}
ABDOMEN_CLASSES = {
    "msd-liver": {"liver", "liver_tumor"},
    "msd-pancreas": {"pancreas", "pancreas_tumor"},
    "msd-spleen": {"spleen"},
    "kits19": {"kidney", "kidney_tumor"},
    "kits23": {"kidney", "kidney_tumor"},
    "lits17": {"liver", "liver_tumor"},
    "folders": {"liver", "liver_tumor"},
    "nnunet": {"liver", "liver_tumor"},
    "nnunet-v1": {"liver", "liver_tumor"},
    **{name: {"liver", "spleen", "pancreas", "kidney"} for name in ("amos22", "btcv", "word")},
}


def classes_of(found, folder: Path, preset: str = "abdomen") -> dict[int, str]:
    layout, given = found.layout, FOLDER_LABELS if found.layout.name == "folders" else {}
    structures = read_structures(folder, given) if layout.has_json else (layout.structures or {})
    return class_names(structures, given, get_preset(preset).label_space, preset)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_becomes_a_site_without_faults(tmp_path, name):
    folder = write_layout(name, tmp_path / "Dätensätze here" / name, cases=6)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    found = find_data_set("auto", folder)
    assert found.layout.name == name.removesuffix("-v1")
    assert (len(found.labelled), len(found.unlabelled)) == (6, UNLABELLED.get(name, 1))
    classes = classes_of(found, folder)
    assert set(classes.values()) - {"background"} == ABDOMEN_CLASSES[name]
    assigned, _ = assign(found, parse_rule("60/20/20"), 0)
    entries = {s: [{"image": case.image, "label": case.label} for case in cases] for s, cases in assigned.items()}
    place = SitePlace(out=tmp_path / "out", name="here")
    write_site_files(place, folder, classes, entries)
    site = read_site_file(place.site_file)
    cases = read_datalist(site)
    assert [len(cases[split]) for split in SPLITS] == [4, 1, 1]
    inspector = Inspector(site, get_preset("abdomen").label_space)
    faults = [fault for split in SPLITS for case in cases[split] for fault in inspector.inspect(case).faults]
    assert faults == []
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("kits23", "mmds", {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"}),
        ("kits19", "psmos", {1: "kidney", 2: "kidney_tumor"}),
        ("kits23", "menu", {1: "kidney", 2: "kidney_tumor", 3: "kidney"}),
        ("kits23", "segviz", {1: "kidney", 2: "kidney_tumor", 3: "kidney"}),
    ],
)
def test_values_follow_the_preset(name, preset, expected):
    layout = get_layout(name)
    assert class_names(layout.structures, {}, get_preset(preset).label_space, preset) == expected


@pytest.mark.parametrize("name", ["amos22", "btcv", "word"])
@pytest.mark.parametrize("preset", ["abdomen", "psmos", "mmds"])
def test_sets_of_organs_name_no_lesion_and_every_organ_of_the_preset(name, preset):
    space, layout = get_preset(preset).label_space, get_layout(name)
    named = set(class_names(layout.structures, {}, space, preset).values())
    outlined = space.names(space.labelled_mask(named))
    missing = set(space.classes) - set(outlined)
    beyond = {"btcv": {"duodenum", "bladder", "prostate_uterus"}, "amos22": set()}
    beyond["word"] = {"aorta", "vena_cava", "adrenal_gland_right", "adrenal_gland_left", "prostate_uterus"}
    assert missing == set(space.lesions) | (beyond[name] & set(space.classes))


def test_sides_have_their_own_classes_where_the_preset_has_them():
    named = class_names(get_layout("btcv").structures, {}, get_preset("psmos").label_space, "psmos")
    assert (named[2], named[3]) == ("kidney_right", "kidney_left")


def test_amos_counts_its_mri_and_keeps_its_validation_set(tmp_path):
    found = find_data_set("amos22", write_layout("amos22", tmp_path / "amos22", cases=6))
    assert found.left_out == {"MRI (ids above 500)": 2}
    assert [case.split for case in found.labelled] == ["training"] * 4 + ["validation"] * 2


def test_junk_hidden_and_unfinished_files_are_no_cases(tmp_path):
    folder = write_layout("msd-spleen", tmp_path / "Task09_Spleen", cases=2)
    (folder / "labelsTr" / "._spleen_0.nii.gz").write_bytes(b"\0")
    (folder / ".cache").mkdir()
    shutil.copy(folder / "imagesTr" / "spleen_0.nii.gz", folder / ".cache" / "spleen_7.nii.gz")
    write_pair(folder / "imagesTr" / "x.nii.gz", folder / "labelsTr" / "spleen_9.nii.gz", ("spleen",))
    found = find_data_set("msd-spleen", folder)
    assert [case.id for case in found.labelled] == ["spleen_0", "spleen_1"]
    assert found.left_out == {"labels without an image": 1}


def test_the_folder_above_and_links_are_understood(tmp_path):
    real = write_layout("msd-liver", tmp_path / "disk" / "Task03_Liver", cases=2)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "liver").symlink_to(real)
    (real / "loop").symlink_to(tmp_path / "data")
    found = find_data_set("auto", tmp_path / "data")
    assert found.labelled[0].image == "liver/imagesTr/liver_0.nii.gz"
    assert len(found.labelled) == 2


def test_a_folder_for_each_case_is_a_layout_too(tmp_path):
    for case in ("p1", "p2"):
        write_pair(tmp_path / case / "image.nii.gz", tmp_path / case / "label.nii.gz", ("liver",))
    found = find_data_set("auto", tmp_path)
    assert found.layout.name == "folders"
    assert [(case.id, case.label) for case in found.labelled] == [("p1", "p1/label.nii.gz"), ("p2", "p2/label.nii.gz")]


def refused(name: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        find_data_set(name, folder)
    return str(caught.value)


def test_a_folder_of_another_layout_says_which_it_is(tmp_path):
    folder = write_layout("btcv", tmp_path / "btcv", cases=1)
    assert refused("msd-liver", folder).endswith("It looks like btcv.")


def test_one_challenge_is_not_taken_for_the_next(tmp_path):
    folder = write_layout("kits19", tmp_path / "kits", cases=2)
    assert resembles(find_data_set("kits23", folder), folder).name == "kits19"
    assert resembles(find_data_set("kits19", folder), folder) is None
    (folder / "data").rename(folder / "mine")
    assert resembles(find_data_set("kits23", folder), folder) is None
    assert "kits19 and kits23" in refused("auto", folder)


def test_labels_without_images_name_the_forgotten_download(tmp_path):
    folder = write_layout("kits19", tmp_path / "kits19", cases=2)
    for image in folder.rglob("imaging.nii.gz"):
        image.unlink()
    for name in ("auto", "kits19"):
        assert "2 labels and no image" in refused(name, folder)
        assert "download script" in refused(name, folder)


def test_a_case_twice_is_refused(tmp_path):
    folder = write_layout("msd-liver", tmp_path / "liver", cases=1)
    shutil.copytree(folder / "imagesTr", folder / "copy" / "imagesTr")
    assert "case liver_0" in refused("auto", folder)


def test_what_is_no_data_set_is_explained(tmp_path):
    assert "which is not there" in refused("auto", tmp_path / "nowhere")
    archive = tmp_path / "Task03_Liver.tar"
    archive.write_bytes(b"")
    assert "Unpack it first" in refused("auto", archive)
    assert "no .nii or .nii.gz file" in refused("auto", tmp_path)
    write_pair(tmp_path / "a.nii.gz", None, ())
    assert "kits23: dataset/case_00000" in refused("auto", tmp_path)
    assert "one of msd-liver" in refused("mds-liver", tmp_path)


def test_two_layouts_in_one_folder_ask_for_one(tmp_path):
    write_layout("btcv", tmp_path / "all" / "btcv", cases=1)
    write_layout("lits17", tmp_path / "all" / "lits", cases=1)
    assert "lits17 and btcv" in refused("auto", tmp_path / "all")


def rewrite_json(folder: Path, **changes: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, "2 channels (CT, PET)"),
        ({"channel_names": {"0": "MRI"}}, "expected CT"),
        ({"labels": {"background": 0, "liver": [1, 2], "tumor": 2}}, "labels.liver: got [1, 2]"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "no ignored label"),
        ({"labels": {"background": 0, "Leber": 1}}, "--labels 1=background"),
        ({"labels": {}}, "names and values of the labels"),
        ({"file_ending": ".nrrd"}, "Convert the images"),
        ({"dataset": {"a": {}}}, "imagesTr and labelsTr"),
    ],
)
def test_what_nnunet_can_and_this_cannot_is_refused(tmp_path, changes, message):
    folder = rewrite_json(write_layout("nnunet", tmp_path / "Dataset001", cases=1), **changes)
    with pytest.raises(ConfigError) as caught:
        read_structures(folder, {})
    assert message in str(caught.value)


def test_a_given_value_stands_for_a_name_that_is_not_understood(tmp_path):
    folder = rewrite_json(write_layout("nnunet", tmp_path / "d", cases=1), labels={"liver": 1, "Leber": 2})
    assert read_structures(folder, {2: "liver_tumor"}) == {1: "liver"}


def test_a_broken_description_is_one_error(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match="readable JSON"):
        read_structures(tmp_path, {})
    with pytest.raises(ConfigError, match="no such file"):
        read_structures(tmp_path / "elsewhere", {})
