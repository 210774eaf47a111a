"""provision/: the shipped policies, the example site files and the project, against the jobs and FLARE's own rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.security.security import FLAuthorizer

import fedpartial
from fedpartial.cli.policy import policy_texts
from fedpartial.cli.policy_check import policy_faults
from fedpartial.errors import check_keys
from fedpartial.presets import ABDOMEN
from fedpartial.sites import ALLOWED, REQUIRED, read_site

ROOT = Path(fedpartial.__file__).parents[2]
PROVISION = ROOT / "provision"
POLICIES = PROVISION / "policy"
SITES = ("kidney", "liver", "pancreas", "spleen")
UNIVERSAL = ("extractor", "summary", "head", "reduction", "controller", "embeddings")
"""Parts of the universal network, which a site uploads whole."""
RIGHTS = (
    "submit_job",
    "clone_job",
    "abort_job",
    "download_job",
    "check_status",
    "shutdown",
    "restart",
    "ls",
    "cat",
    "byoc",
)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def class_paths(config: object) -> Iterator[str]:
    """Every "path" in a FLARE configuration, nested ones too."""
    if isinstance(config, dict):
        if isinstance(config.get("path"), str):
            yield config["path"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from class_paths(value)


@pytest.mark.parametrize(("kind", "file"), [("site", "config_fed_client.json"), ("server", "config_fed_server.json")])
def test_the_allow_list_is_exactly_what_the_jobs_name(kind, file):
    configs = list(ROOT.glob(f"jobs/*/app/config/{file}"))
    assert len(configs) >= 2
    resources = read(POLICIES / kind / "resources.json")
    assert resources["class_allow_list"] == sorted({path for config in configs for path in class_paths(read(config))})
    assert resources["class_list_enforcement_mode"] == "enforce"


@pytest.mark.parametrize("policy", ["site", "site-byoc"])
def test_a_site_streams_no_log(policy):
    resources = read(POLICIES / policy / "resources.json")
    assert resources["allow_log_streaming"] is False
    ids = {component["id"] for component in resources["components"]}
    assert ids == {"resource_manager", "resource_consumer", "process_launcher"}


def test_the_servers_stores_lie_in_its_kit():
    text = (POLICIES / "server" / "resources.json").read_text(encoding="utf-8")
    assert "/tmp" not in text
    assert '"{KIT}/store/jobs"' in text
    assert '"{KIT}/store/snapshots"' in text


def test_byoc_differs_in_one_right_and_in_a_launcher_that_needs_no_installed_package():
    for kind in ("site", "server"):
        reviewed, byoc = (read(POLICIES / name / "authorization.json") for name in (kind, f"{kind}-byoc"))
        assert byoc["permissions"]["lead"].pop("byoc") == "any"
        assert reviewed["permissions"]["lead"].pop("byoc") == "none"
        assert byoc == reviewed
    reviewed, byoc = (read(POLICIES / name / "resources.json") for name in ("site", "site-byoc"))
    launchers = [resources["components"].pop()["path"] for resources in (reviewed, byoc)]
    assert launchers[0] == "fedpartial.flare.launcher.SiteJobLauncher"
    assert launchers[1].startswith("nvflare.")
    assert byoc == reviewed


def test_noise_is_added_to_the_reviewed_filters_and_no_head_leaves():
    """FLARE's noise filters take a head or a whole model for the change of one step and clip it to nothing."""
    site, noise = (read(POLICIES / name / "privacy.json") for name in ("site", "site-noise"))
    (reviewed,), (noisy,) = site["scopes"], noise["scopes"]
    own = reviewed.pop("task_result_filters")
    parts = next(one for one in own if one["path"].endswith(".NamedParts"))["args"]["parts"]
    for whole in ("heads.*", *(f"{name}.*" for name in UNIVERSAL)):
        parts.remove(whole)
    shared, added = noisy["task_result_filters"][: len(own)], noisy.pop("task_result_filters")[len(own) :]
    assert shared == own
    assert [one["path"].rsplit(".", 1)[1] for one in added] == ["PercentilePrivacy", "SVTPrivacy"]
    assert noise == site, "scope and default are the same"


@pytest.mark.parametrize("policy", ["reviewed", "byoc", "noise"])
def test_flare_makes_of_a_shipped_site_policy_what_setup_kit_asks_of_anybody_elses(tmp_path, policy):
    assert policy_faults(tmp_path, policy_texts(policy, "site"), "liver") == []


def rights(policy: str, role: str, org: str, submitter_org: str = "consortium") -> set[str]:
    """What FLARE itself lets a user do at liver_hospital (the server: consortium) with this policy.

    A lead is the submitter of the jobs in question when of the organisation ``submitter_org``.
    """
    here = "consortium" if policy.startswith("server") else "liver_hospital"
    authorizer = FLAuthorizer(here, read(POLICIES / policy / "authorization.json"))
    user, submitter = Person(f"{role}@{org}", org, role), Person(f"lead@{submitter_org}", submitter_org, "lead")
    return {right for right in RIGHTS if authorizer.authorize(AuthzContext(right, user, submitter))[0]}


OWN_JOBS = {"submit_job", "clone_job", "abort_job", "download_job", "check_status"}
OPERATE = {"check_status", "shutdown", "restart", "ls", "cat"}


@pytest.mark.parametrize(
    ("policy", "role", "org", "allowed"),
    [
        ("site", "lead", "consortium", OWN_JOBS),
        ("site", "lead", "elsewhere", {"submit_job", "check_status"}),
        ("site", "project_admin", "consortium", {"abort_job", "check_status"}),
        ("site", "org_admin", "liver_hospital", OPERATE),
        ("site", "org_admin", "spleen_hospital", {"check_status"}),
        ("site", "member", "liver_hospital", {"check_status"}),
        ("site", "stranger", "liver_hospital", set()),
        ("site-byoc", "lead", "consortium", {*OWN_JOBS, "byoc"}),
        ("site-byoc", "org_admin", "liver_hospital", OPERATE),
        ("server", "lead", "consortium", OWN_JOBS),
        ("server", "lead", "elsewhere", {"submit_job", "check_status"}),
        ("server", "project_admin", "consortium", {"abort_job", *OPERATE}),
        ("server", "org_admin", "liver_hospital", {"check_status"}),
        ("server", "member", "consortium", {"check_status"}),
        ("server-byoc", "lead", "consortium", {*OWN_JOBS, "byoc"}),
    ],
)
def test_who_may_do_what(policy, role, org, allowed):
    assert rights(policy, role, org) == allowed


def test_the_example_site_files_are_valid():
    files = sorted((PROVISION / "sites").glob("*.json"))
    assert [file.stem for file in files] == list(SITES)
    for file in files:
        given = read(file)
        check_keys(given, ALLOWED, REQUIRED, where=str(file))
        assert set(given["labels"].values()) <= {*ABDOMEN.classes, "background"}


def test_an_example_site_file_is_read_where_its_data_is(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datalist.json").write_text("{}")
    (tmp_path / "sites").mkdir()
    for file in (PROVISION / "sites").glob("*.json"):
        (tmp_path / "sites" / file.name).write_text(json.dumps({**read(file), "data_root": "../data"}))
        assert read_site(file.stem, tmp_path).source == "site file"


def test_the_project_has_the_jobs_sites_and_a_server_on_the_loopback():
    participants = yaml.safe_load((PROVISION / "project.yml").read_text(encoding="utf-8"))["participants"]
    by_type = {kind: [p for p in participants if p["type"] == kind] for kind in ("server", "client", "admin")}
    assert {site["name"] for site in by_type["client"]} == set(SITES)
    assert len({site["org"] for site in by_type["client"]}) == len(SITES)
    assert [server["name"] for server in by_type["server"]] == ["localhost"]
    assert {admin["role"] for admin in by_type["admin"]} == {"lead", "project_admin", "org_admin"}
