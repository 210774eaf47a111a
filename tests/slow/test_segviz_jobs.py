"""The jobs of SegViz in FLARE's simulator: what is left, what moved, and a prediction with the assembled model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from simulation import Run, simulate, small_job

from fedpartial.evaluation.record import validate_report
from fedpartial.networks.split import is_head, is_norm
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FEDPARTIAL = Path(sys.executable).with_name("fedpartial")
SITES = ("liver", "spleen")
BUDGET = {"num_rounds": 2, "local_steps": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(job, threads=2)``: a small run of a job, made once."""
    done: dict[tuple, Run] = {}

    def get(name: str, threads: int = 2) -> Run:
        if (name, threads) not in done:
            folder = tmp_path_factory.mktemp(name)
            phase = {"finetune_steps": 4} if name.endswith("_ft") else {}
            done[name, threads] = simulate(small_job(name, folder, SITES, **BUDGET, **phase), folder / "ws", threads)
        return done[name, threads]

    return get


def test_a_new_process_for_every_task_gives_the_same_assembled_model(run):
    """Heads, norms and optimisers live in files between the tasks."""
    ours, theirs = (run("segviz_fedbn_ft", threads).weights for threads in (1, 2))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_fedbn_leaves_one_trunk_and_every_sites_norms_and_head(run):
    finished = run("segviz_fedbn_ft")
    trunk, _ = load_model(finished.app / "trunk.safetensors")
    assert not any(is_head(name) or is_norm(name) for name in trunk)
    weights = finished.weights
    assert all(np.array_equal(weights[name], trunk[name]) for name in trunk)
    own = {name for name in weights if name not in trunk}
    assert {name.partition("/")[0] for name in own} == set(SITES)
    assert any(".heads.liver." in f".{n.partition('/')[2]}" for n in own if n.startswith("liver/"))
    assert not any("heads.liver." in name for name in own if name.startswith("spleen/"))
    best, _ = load_model(finished.app / "best_global_model.safetensors")
    assert all(np.array_equal(best[name], weights[name]) for name in weights)


def test_the_exchange_report_names_what_moved(run):
    finished = run("segviz_fedbn_ft")
    exchange = json.loads((finished.app / "exchange.json").read_text(encoding="utf-8"))
    trunk, _ = load_model(finished.app / "trunk.safetensors")
    assert exchange["exchange"] == "trunk_without_norms"
    assert set(exchange["shared"]) == set(trunk), "a safetensors file has an order of its own"
    assert len(exchange["rounds"]) == 2
    for moved in exchange["rounds"]:
        assert moved["tensors_down"] == moved["tensors_changed"] == len(trunk)
        assert set(moved["sites"]) == set(SITES)
        assert {site["tensors_taken"] for site in moved["sites"].values()} == {len(trunk)}
    facts = finished.report["exchange"]
    assert facts["heads_bytes_up"] > 0
    assert facts["fine_tuning_bytes_down"] == 2 * facts["bytes_per_message"]


def test_the_report_scores_the_annotated_organs_fused_and_head_by_head(run):
    report = run("segviz_fedbn_ft").report
    validate_report(report)
    assert set(report["external"]) == set(report["external_heads"]) == set(SITES)
    assert {"fine-tuning", "collecting heads"} <= set(report["phases"])


def test_standalone_gives_an_ensemble_of_whole_networks(run):
    finished = run("segviz_standalone")
    assert {name.partition("/")[0] for name in finished.weights} == set(SITES)
    assert set(finished.report["external_heads"]) == set(SITES)


def test_conventional_federation_has_one_head_and_no_scores_of_heads(run):
    finished = run("segviz_conventional")
    assert all(not is_head(name) or name.startswith("heads.joint.") for name in finished.weights)
    assert finished.report["external_heads"] == {}
    assert set(finished.report["external"]) == set(SITES), "nobody could learn the other organs"


@pytest.mark.parametrize(("rule", "files"), [("log-odds", ["ct"]), ("per-head", ["ct_liver", "ct_spleen"])])
def test_the_assembled_model_predicts_from_the_command_line(run, own_cache, tmp_path, rule, files):
    image = next((own_cache / "phantom").glob("external-*/images/*.nii.gz"))
    model = run("segviz_fedbn_ft").app / "global_model.safetensors"
    command = [str(FEDPARTIAL), "predict", str(model), str(image), "-o", str(tmp_path / "ct.nii.gz"), "--fusion", rule]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.nii.gz" for name in files]
    for name in files:
        label = nibabel.load(tmp_path / f"{name}.nii.gz")
        assert label.shape == nibabel.load(image).shape
        assert np.allclose(label.affine, nibabel.load(image).affine)
