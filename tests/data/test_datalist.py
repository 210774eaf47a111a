"""A datalist is read as it stands, and what is wrong with it is named."""

from __future__ import annotations

import json

import pytest
from tiny_hospital import write_site

from fedpartial.cli.json_file import read_json
from fedpartial.data.datalist import SPLITS, read_datalist
from fedpartial.errors import ConfigError
from fedpartial.sites import read_site_file

A = {"image": "a.nii.gz", "label": "a_y.nii.gz"}
B = {"image": "sub/b.nii.gz", "label": "sub/b_y.nii.gz", "labels": ["liver"]}


def test_cases_keep_their_split_their_order_and_their_own_labels(tmp_path):
    given = {"name": "Liver", "labels": {"1": "liver"}, "training": [A, B], "testing": ["c.nii.gz"]}
    cases = read_datalist(write_site(tmp_path, given))
    assert tuple(cases) == SPLITS
    first, second = cases["training"]
    assert (first.index, first.split, first.labels) == (0, "training", None)
    assert (second.index, second.labels) == (1, ("liver",))
    assert second.image == tmp_path / "sub/b.nii.gz"
    assert second.label == tmp_path / "sub/b_y.nii.gz"
    assert cases["validation"] == []
    (test,) = cases["testing"]
    assert (test.image, test.label) == (tmp_path / "c.nii.gz", None)


def test_the_decathlon_key_test_means_testing(tmp_path):
    cases = read_datalist(write_site(tmp_path, {"training": [A], "test": ["./c.nii.gz", {"image": "d.nii.gz"}]}))
    assert [case.image.name for case in cases["testing"]] == ["c.nii.gz", "d.nii.gz"]


@pytest.mark.parametrize(
    ("given", "field", "got"),
    [
        ({"validation": [A]}, "training", "nothing"),
        ({"training": []}, "training", "[]"),
        ({"training": {"image": "a"}}, "training", "dict"),
        ({"training": [A], "validation": None}, "validation", "NoneType"),
        ({"training": [3]}, "training[0]", "3"),
        ({"training": [{"label": "a"}]}, "training[0].image", "None"),
        ({"training": [A, {**B, "image": 7}]}, "training[1].image", "7"),
        ({"training": [A, {"image": "b"}]}, "training[1].label", "nothing"),
        ({"training": ["a.nii.gz"]}, "training[0].label", "nothing"),
        ({"training": [A], "validation": [{"image": "b"}]}, "validation[0].label", "nothing"),
        ({"training": [{**A, "mask": "m"}]}, "training[0].mask", "unknown key"),
        ({"training": [{**A, "labels": "liver"}]}, "training[0].labels", "'liver'"),
        ({"training": [{**A, "labels": []}]}, "training[0].labels", "[]"),
        ({"training": [A, B], "validation": [A]}, "validation[0].image", "a.nii.gz"),
        ({"training": [A, {**B, "image": "./sub/../a.nii.gz"}]}, "training[1].image", "a.nii.gz"),
        ({"training": [A], "testing": ["x/../a.nii.gz"]}, "testing[0].image", "a.nii.gz"),
        ({"training": [A], "test": [], "testing": []}, "test", "both"),
        ([A], "(file)", "list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, given, field, got):
    site = write_site(tmp_path, given)
    with pytest.raises(ConfigError) as error:
        read_datalist(site)
    assert error.value.where == str(site.datalist)
    assert error.value.field == field
    assert got in str(error.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    """Notepad and PowerShell write one; site files have it as often as datalists."""
    write_site(tmp_path, {"training": [A]})
    site_file = tmp_path / "liver.json"
    site_file.write_text(json.dumps({"labels": {"1": "liver"}, "data_root": "."}))
    for file in (tmp_path / "datalist.json", site_file):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert read_json(site_file)["labels"] == {"1": "liver"}
    assert len(read_datalist(read_site_file(site_file))["training"]) == 1


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", None])
def test_unreadable_json(tmp_path, text):
    site = write_site(tmp_path, {"training": [A]})
    site.datalist.unlink()
    if text is not None:
        site.datalist.write_bytes(text)
    with pytest.raises(ConfigError, match=r"\(file\)") as error:
        read_datalist(site)
    assert json.loads(error.value.remedy.partition("example: ")[2])
