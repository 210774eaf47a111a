"""A pool's members are checked and staged with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_hospitals import SITES

from fedpartial.cli.site_check import check_sites, open_site_folder, stage_site_files, unused_site_files
from fedpartial.phantom import PHANTOM_POOLS
from fedpartial.sites import read_site
from fedpartial.training.plan import Plan

PLAN = Plan(job="test", preset="phantom", num_rounds=1, local_steps=1)


@pytest.fixture
def folder(hospitals: Path, tmp_path: Path):
    """The site files of two hospitals and of a pool of both."""
    (hospitals / "central.json").write_text(json.dumps({"pool": list(SITES), "device": "cpu"}))
    (tmp_path / "links").mkdir()
    return open_site_folder(hospitals, tmp_path / "links")


def check(folder) -> tuple[list, list[str]]:
    sites, faults = check_sites(["central"], folder, PLAN, None)
    return sites, [str(fault) for fault in faults]


def test_a_good_pool_has_no_faults_and_uses_the_files_of_its_members(folder, hospitals):
    (pool,), faults = check(folder)
    assert faults == []
    assert [member.name for member in pool.members] == list(SITES)
    assert unused_site_files([pool], folder) == []
    (hospitals / "livr.json").write_text("{}")
    assert unused_site_files([pool], folder) == ["livr.json"]


def test_the_faults_of_all_members_are_found_in_one_pass(folder, hospitals, tmp_path):
    liver = json.loads((hospitals / "liver.json").read_text())
    (hospitals / "liver.json").write_text(json.dumps({**liver, "labels": {"1": "lever"}}))
    (tmp_path / "data/spleen/training1.nii.gz").unlink()
    _, faults = check(folder)
    assert any("'lever'" in fault for fault in faults)
    assert any("training[1].image" in fault for fault in faults)
    assert all("site central: " in fault for fault in faults)


def test_the_device_of_a_pool_is_checked(folder, hospitals):
    (hospitals / "central.json").write_text(json.dumps({"pool": list(SITES), "device": "gpu"}))
    _, faults = check(folder)
    assert len(faults) == 1
    assert "'gpu'" in faults[0]


def test_a_pool_is_staged_with_its_members_and_reads_the_same_data_there(folder, tmp_path):
    sites, _ = check(folder)
    stage_site_files(sites, folder, tmp_path / "ws/local")
    shutil.rmtree(tmp_path / "links")
    assert {path.stem for path in (tmp_path / "ws/local/sites").iterdir()} == {"central", *SITES}
    pool = read_site("central", tmp_path / "ws/local")
    for name, member in zip(SITES, pool.members, strict=True):
        assert member.data_root.samefile(tmp_path / "data" / name)


def test_the_phantoms_pool_needs_no_file(tmp_path):
    folder = open_site_folder(None, tmp_path)
    (pool,), faults = check(folder)
    assert faults == []
    assert [member.name for member in pool.members] == list(PHANTOM_POOLS["central"])
    stage_site_files([pool], folder, tmp_path / "local")
    assert not (tmp_path / "local").exists()
