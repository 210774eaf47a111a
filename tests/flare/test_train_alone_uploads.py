"""What ``fedpartial train-alone`` made is the model that a job asks for: the job trains nothing and uploads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from one_stage import Federation, StageServer, nothing_is_computed
from safetensors.numpy import save_file

from fedpartial.cli.job_folder import find_job
from fedpartial.cli.reply import Reply
from fedpartial.cli.train_alone import Request, train_site_alone
from fedpartial.presets import GREAT_VESSELS
from fedpartial.training.model_file import load_model
from one_round import FEDERATION, LENGTH, home, same_tensors, stage_sites, universal  # noqa: F401

STEPS, SEED = 4, 3
VECTORS = "vectors.safetensors"


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("stage_sites"))


@pytest.fixture
def site_config(sites, tmp_path) -> Path:
    """The spleen hospital's file, as it stands in its workspace and as it is given to the command."""
    site = sites["spleen"]
    given = {"labels": site.labels, "data_root": str(site.data_root), "device": "cpu", "cache_dir": str(site.cache_dir)}
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "spleen.json").write_text(json.dumps(given))
    return tmp_path / "given"


@pytest.fixture
def federation(sites, tmp_path, home) -> Federation:  # noqa: F811
    return Federation(sites, tmp_path, home)


def vectors(folder: Path) -> None:
    """One for each class; a file of the job's own server app."""
    drawn = np.random.default_rng(5).standard_normal((len(GREAT_VESSELS.classes), LENGTH)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(zip(GREAT_VESSELS.classes, drawn, strict=True)), folder / VECTORS)


def train(site_config: Path, job: Path, **values) -> int:
    request = Request(
        job=str(job),
        site="spleen",
        site_config=site_config,
        preset="tiny_universal",
        local_steps=STEPS,
        seed=SEED,
        values={"federation": FEDERATION, **values},
    )
    return train_site_alone(request, Reply())


def uploaded(server: StageServer, **how) -> StageServer:
    """A job that only collects."""
    return server.run(distil_steps=0, evaluate=False, **how)


@pytest.mark.parametrize("given", [False, True], ids=["seeded vectors", "vectors of the job"])
def test_a_job_trains_nothing_and_uploads_the_very_model(federation, site_config, tmp_path, monkeypatch, given):
    job = Path(shutil.copytree(find_job("mmds_stage1"), tmp_path / "jobs" / "mmds_stage1"))
    server = federation.stage("spleen", local_steps=STEPS, seed=SEED)
    name = {"embeddings": VECTORS} if given else {}
    if given:
        vectors(job / "app")
        vectors(server.app)
    assert train(site_config, job, **name) == 0
    with monkeypatch.context() as patch:
        nothing_is_computed(patch)
        uploaded(server, **name)
    assert "spleen" not in server.failures
    stored = federation.store.sites()["spleen"]
    (kept,) = federation.home.rglob("local_model.safetensors")
    assert same_tensors(federation.store.load(stored), load_model(kept)[0])


def test_the_command_trains_what_the_job_would_have_trained(federation, site_config, tmp_path):
    uploaded(federation.stage("spleen", local_steps=STEPS, seed=SEED))
    (kept,) = federation.home.rglob("local_model.safetensors")
    by_job = load_model(kept)[0]
    kept.unlink()
    assert train(site_config, find_job("mmds_stage1")) == 0
    assert same_tensors(load_model(kept)[0], by_job)


def test_vectors_of_another_job_make_another_model(federation, site_config, tmp_path):
    job = Path(shutil.copytree(find_job("mmds_stage1"), tmp_path / "jobs" / "mmds_stage1"))
    vectors(job / "app")
    assert train(site_config, job, embeddings=VECTORS) == 0
    (kept,) = federation.home.rglob("local_model.safetensors")
    before = kept.read_bytes()
    server = uploaded(federation.stage("spleen", local_steps=STEPS, seed=SEED))
    assert "spleen" not in server.failures
    assert kept.read_bytes() != before
