"""Site files are read and checked before a run, and reach the sites with paths that hold there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_hospitals import SITES, write_data

from fedpartial.cli.site_check import check_sites, open_site_folder, stage_site_files, unused_site_files
from fedpartial.data.datalist import read_datalist
from fedpartial.errors import ConfigError
from fedpartial.sites import read_site
from fedpartial.training.plan import Plan

PLAN = Plan(job="test", preset="phantom", num_rounds=1, local_steps=1)


@pytest.fixture
def check(hospitals: Path, tmp_path: Path):
    """``check()`` gives sites and faults as text; ``names`` may be other sites."""

    def run(names=SITES, device=None, given=hospitals):
        links = tmp_path / "links"
        shutil.rmtree(links, ignore_errors=True)
        links.mkdir()
        sites, faults = check_sites(names, open_site_folder(given, links), PLAN, device)
        return sites, [str(fault) for fault in faults]

    return run


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_good_sites_have_no_faults(check):
    sites, faults = check()
    assert faults == []
    assert [(site.name, site.source) for site in sites] == [("liver", "site file"), ("spleen", "site file")]


def test_sites_without_a_file_use_the_phantom_whose_files_need_not_exist(check, hospitals):
    (hospitals / "spleen.json").unlink()
    sites, faults = check()
    assert faults == []
    assert [site.source for site in sites] == ["site file", "phantom"]
    sites, faults = check(given=None)
    assert faults == []
    assert [site.source for site in sites] == ["phantom", "phantom"]


def test_a_site_that_nobody_knows_is_told_which_file_to_write(check, hospitals):
    _, faults = check(["liver", "hospital-1"])
    assert len(faults) == 1
    assert "site hospital-1: " in faults[0]
    assert str(hospitals / "hospital-1.json") in faults[0]


def test_faults_of_all_sites_are_found_in_one_pass(check, hospitals, tmp_path):
    change(hospitals / "liver.json", labels={"1": "lever"})
    shutil.rmtree(tmp_path / "data/spleen")
    _, faults = check()
    assert len(faults) == 2
    assert "site liver: " in faults[0]
    assert "'lever'" in faults[0]
    assert "site spleen: " in faults[1]
    assert str(hospitals / "../data/spleen") in faults[1]
    assert not any("links" in fault for fault in faults), "the user is shown a temporary path"


def test_a_missing_datalist_is_named(check, tmp_path):
    (tmp_path / "data/liver/datalist.json").unlink()
    _, faults = check()
    assert len(faults) == 1
    assert "site liver: " in faults[0]
    assert "data/liver/datalist.json" in faults[0]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"image": "training0.nii.gz"}, "training[0].label"),
        ({"image": "x.nii.gz", "label": "x_label.nii.gz", "labels": ["lever"]}, "'lever'"),
        ({"image": "x.nii.gz", "lable": "x_label.nii.gz"}, "training[0].lable"),
    ],
)
def test_a_wrong_entry_of_a_datalist_is_named(check, tmp_path, entry, said):
    change(tmp_path / "data/liver/datalist.json", training=[entry])
    _, faults = check()
    assert "site liver: " in faults[0]
    assert said in faults[0]


def test_files_that_do_not_exist_are_listed_by_case(check, tmp_path):
    (tmp_path / "data/liver/training1.nii.gz").unlink()
    (tmp_path / "data/liver/validation0_label.nii.gz").unlink()
    _, faults = check()
    assert len(faults) == 2
    assert "training[1].image" in faults[0]
    assert "validation[0].label" in faults[1]


def test_a_wrong_data_root_does_not_list_a_thousand_files(check, tmp_path):
    entries = [{"image": f"{i}.nii.gz", "label": f"{i}_label.nii.gz"} for i in range(500)]
    change(tmp_path / "data/liver/datalist.json", training=entries)
    _, faults = check()
    assert len(faults) == 6
    assert "995 more files" in faults[-1]


def test_a_site_without_training_cases_cannot_train(check, tmp_path):
    change(tmp_path / "data/liver/datalist.json", training=[])
    _, faults = check()
    assert len(faults) == 1
    assert "training" in faults[0]


def test_the_external_set_is_checked_where_it_has_a_file(check, hospitals, tmp_path):
    write_data(tmp_path / "data/external")
    cases = json.loads((tmp_path / "data/external/datalist.json").read_text())
    datalist = {"training": [], "testing": cases["testing"]}
    (tmp_path / "data/external/datalist.json").write_text(json.dumps(datalist))
    site = {"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": "../data/external"}
    (hospitals / "external.json").write_text(json.dumps(site))
    sites, faults = check()
    assert faults == []
    assert [site.name for site in sites] == [*SITES, "external"]
    change(hospitals / "external.json", labels={"1": "lever"})
    _, faults = check()
    assert len(faults) == 1
    assert faults[0].startswith("site external: ")


def test_a_device_that_is_not_there_is_refused(check, hospitals):
    _, faults = check(device="cuda:99")
    assert len(faults) == 2
    assert "cuda:99" in faults[0]
    change(hospitals / "liver.json", device="gpu")
    _, faults = check()
    assert len(faults) == 1
    assert "'gpu'" in faults[0]
    assert check(device="cpu")[1] == [], "the option holds instead of the file"


# --- where site files may lie ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["files", "sites folder", "named sites"])
def test_site_files_are_found_in_every_layout(check, hospitals, tmp_path, layout):
    given = hospitals
    if layout == "sites folder":
        shutil.copytree(hospitals, tmp_path / "local" / "sites")
        shutil.copytree(tmp_path / "data", tmp_path / "local" / "data")
        given = tmp_path / "local"
    elif layout == "named sites":
        given = hospitals.rename(tmp_path / "sites")
    sites, faults = check(given=given)
    assert faults == []
    assert {site.source for site in sites} == {"site file"}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--site-config: folder"):
        open_site_folder(tmp_path / "nowhere", tmp_path)


def test_copies_name_the_same_data_from_another_place(hospitals, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    folder = open_site_folder(hospitals, links)
    sites, faults = check_sites(SITES, folder, PLAN, None)
    assert faults == []
    before = {site.name: (hospitals / f"{site.name}.json").read_bytes() for site in sites}
    stage_site_files(sites, folder, tmp_path / "ws" / "local")
    shutil.rmtree(links)
    elsewhere = Path(shutil.copytree(tmp_path / "ws/local", tmp_path / "ws/liver/local"))
    for name in SITES:
        site = read_site(name, elsewhere)
        assert site.data_root.samefile(tmp_path / "data" / name)
        assert site.cache_dir.parent.samefile(tmp_path)
        assert site.cache_dir.name == "cache"
        assert len(read_datalist(site)["training"]) == 2
        assert (hospitals / f"{name}.json").read_bytes() == before[name]


def test_phantom_sites_have_no_file_to_copy(tmp_path):
    folder = open_site_folder(None, tmp_path)
    sites, _ = check_sites(SITES, folder, PLAN, None)
    stage_site_files(sites, folder, tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_files_that_no_site_reads_are_known(hospitals, tmp_path):
    (hospitals / "livr.json").write_text("{}")
    folder = open_site_folder(hospitals, tmp_path)
    sites, _ = check_sites(SITES, folder, PLAN, None)
    assert unused_site_files(sites, folder) == ["livr.json"]
