"""Provisioned federations of real processes with mutual TLS: jobs run, and what a policy forbids is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from real_federation import Federation

from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.dynunet import build_network
from fedpartial.presets import get_preset
from fedpartial.training.model_file import load_model

JOBS = Path(__file__).parents[2] / "jobs"
SITES = ("liver", "spleen")


def tiny_job(folder: Path, sites: tuple[str, ...] = SITES, name: str = "condistfl") -> Path:
    """A copy of a job for one round of one step."""
    shutil.copytree(JOBS / name, folder / name)
    _edit(folder / name / "meta.json", min_clients=len(sites), deploy_map={"app": ["server", *sites]})
    server = folder / name / "app" / "config" / "config_fed_server.json"
    _edit(server, min_clients=len(sites), num_rounds=1, local_steps=1)
    return folder / name


def _edit(path: Path, **values: object) -> None:
    given = json.loads(path.read_text(encoding="utf-8"))
    assert not set(values) - set(given)
    path.write_text(json.dumps({**given, **values}), encoding="utf-8")


@pytest.mark.poc
@pytest.mark.timeout(300)
def test_a_tiny_job_runs_from_submission_to_downloaded_model_and_report(tmp_path):
    with Federation(tmp_path, SITES) as federation:
        job = federation.submit(tiny_job(tmp_path / "jobs"))
        assert federation.wait(job) == "FINISHED:COMPLETED"
        results = federation.download(job) / "workspace" / "app_server"
    weights, _ = load_model(results / "global_model.safetensors")
    assert set(weights) == set(canonical_state(build_network(get_preset("phantom"), seed=0)))
    assert set(json.loads((results / "report.json").read_text(encoding="utf-8"))["sites"]) >= set(SITES)
