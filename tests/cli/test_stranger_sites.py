"""Classes and presets are given to sites of the job: a misspelt name would change nothing, and nobody would know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import find_job, read_job, write_job
from fedpartial.cli.overrides import with_overrides
from fedpartial.errors import ConfigError


@pytest.fixture
def faults_of(tmp_path: Path) -> Callable[..., list[ConfigError]]:
    """``faults_of("mmds_stage4", site_classes={...})``: what is wrong with the shipped job with these values."""

    def find(name: str, *, sites: tuple[str, ...] | None = None, folder: Path | None = None, **values):
        asked = with_overrides(read_job(folder or find_job(name)), values, sites)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return check_job(write_job(asked, tmp_path / "copy" / name), tmp_path / "build")[1]

    return find


def test_sites_of_the_job_are_no_strangers(faults_of):
    assert faults_of("mmds_stage4") == []
    assert faults_of("mmds_heterogeneous") == []
    assert faults_of("mmds_heterogeneous", site_presets={"kidney": "phantom_mmds_swin"}) == []


@pytest.mark.parametrize(
    ("job", "field", "given", "sites"),
    [
        ("mmds_stage4", "site_classes", {"amos": ["liver"], "amso": ["spleen"]}, "amos"),
        ("mmds_heterogeneous", "site_presets", {"livre": "phantom_mmds_swin"}, "kidney, liver, pancreas, spleen"),
    ],
)
def test_a_stranger_is_named_with_the_sites_of_the_job(faults_of, tmp_path, job, field, given, sites):
    (fault,) = faults_of(job, **{field: given})
    assert fault.where == str(tmp_path / "copy" / job / "app" / "config" / "config_fed_server.json")
    assert (fault.field, fault.got) == (field, list(given)[-1])
    assert fault.expected == f"a site of this job ({sites})"
    assert fault.remedy.endswith(f"leave it out with --set '{field}={{}}'.")


def test_the_remedy_helps(faults_of):
    assert faults_of("mmds_heterogeneous", site_presets={}) == []


def test_every_stranger_is_named_in_one_pass(faults_of):
    faults = faults_of("mmds_heterogeneous", site_presets={"a": "phantom_mmds", "b": "phantom_mmds_swin"})
    assert [fault.got for fault in faults] == ["a", "b"]


def test_a_site_that_was_taken_out_of_the_job_is_a_stranger(faults_of):
    (fault,) = faults_of("mmds_heterogeneous", sites=("kidney", "liver"))
    assert fault.got == "spleen"
    assert faults_of("mmds_heterogeneous", sites=("kidney", "hospital"), site_presets={"hospital": "mmds"}) != []
    assert (
        faults_of("mmds_heterogeneous", sites=("kidney", "hospital"), site_presets={"hospital": "phantom_mmds"}) == []
    )


def test_a_job_for_all_sites_knows_no_strangers(tmp_path):
    """Which sites will be there is known to nobody."""
    job = Path(shutil.copytree(find_job("mmds_stage4"), tmp_path / "jobs" / "mmds_stage4"))
    meta = json.loads((job / "meta.json").read_text())
    (job / "meta.json").write_text(json.dumps({**meta, "deploy_map": {"app": ["@ALL"]}}))
    assert not [fault for fault in check_job(read_job(job), tmp_path / "build")[1] if fault.field == "site_classes"]


def test_the_members_of_the_phantoms_pool_belong_to_the_job(faults_of, tmp_path):
    job = Path(shutil.copytree(find_job("mmds_central"), tmp_path / "jobs" / "mmds_central"))
    config = job / "app" / "config" / "config_fed_server.json"
    server = json.loads(config.read_text())
    plan = next(component for component in server["components"] if component["id"] == "plan")
    plan["args"]["site_classes"] = {"liver": ["liver"], "lever": ["liver"]}
    config.write_text(json.dumps(server))
    (fault,) = faults_of("mmds_central", folder=job)
    assert (fault.field, fault.got) == ("site_classes", "lever")
