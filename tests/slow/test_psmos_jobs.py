"""FL-PSMOS and Fed-MENU in FLARE's simulator: pretraining, adaptation, runs without rounds, and frozen encoders."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from simulation import Run, simulate, small_job
from tiny_consortium import site_files

from fedpartial.evaluation.annotated import all_classes
from fedpartial.evaluation.record import validate_report
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.parts import is_encoder
from fedpartial.presets import get_preset
from fedpartial.training.model_file import load_model
from fedpartial.training.reported import ADAPTATION_WAYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEDPARTIAL = Path(sys.executable).with_name("fedpartial")
SITES = ("full", "liver")
BUDGET = {"num_rounds": 2, "pretrain_rounds": 1, "local_steps": 2, "adapt_steps": 2}
LIMIT_MINUTES = 8


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory) -> Path:
    return site_files(tmp_path_factory.mktemp("hospitals"), ("full", "liver", "spleen"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, hospitals):
    """``run(threads=2)``: two rounds of psmos_adapt, the first of pretraining, made once."""
    done: dict[int, Run] = {}

    def get(threads: int = 2) -> Run:
        if threads not in done:
            folder = tmp_path_factory.mktemp("adapt")
            job = small_job("psmos_adapt", folder, SITES, **BUDGET)
            done[threads] = simulate(job, workspace_for(SITES, hospitals, folder), threads)
        return done[threads]

    return get


@pytest.fixture(scope="module")
def menu(tmp_path_factory, hospitals) -> Run:
    """One round of fedmenu at two sites, of which nobody annotates pancreas and kidneys."""
    folder, sites = tmp_path_factory.mktemp("menu"), ("liver", "spleen")
    job = small_job("fedmenu", folder, sites, num_rounds=1, local_steps=2)
    return simulate(job, workspace_for(sites, hospitals, folder), 2)


def workspace_for(sites: tuple[str, ...], hospitals: Path, folder: Path) -> Path:
    """The simulator's workspace with the files of these sites."""
    files = folder / "workspace" / "local" / "sites"
    files.mkdir(parents=True)
    for site in sites:
        given = json.loads((hospitals / f"{site}.json").read_text(encoding="utf-8"))
        given |= {key: str(hospitals / given[key]) for key in ("data_root", "cache_dir")}
        (files / f"{site}.json").write_text(json.dumps(given), encoding="utf-8")
    return folder / "workspace"


def command(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``fedpartial run``, which ends its own processes."""
    return subprocess.run(
        [str(FEDPARTIAL), "run", *arguments, "--out", str(out), "--time-limit", str(LIMIT_MINUTES)],
        cwd=out.parent,
        env={**os.environ, "FEDPARTIAL_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60 * LIMIT_MINUTES + 60,
    )


def differing(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> set[str]:
    """Names of the tensors that are not equal bit for bit."""
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not np.array_equal(ours[name], theirs[name])}


def adapted(finished: Run, site: str, way: str) -> dict[str, np.ndarray]:
    folder = finished.workspace / site / "simulate_job" / f"app_{site}"
    return load_model(folder / f"adapted_{way}.safetensors")[0]


def test_a_new_process_for_every_task_gives_the_same_model_and_adapted_models(run):
    """Optimiser and learning rate of a site live in files between the tasks."""
    assert differing(run(1).weights, run(2).weights) == set()
    for site in SITES:
        for way in ADAPTATION_WAYS:
            assert differing(adapted(run(1), site, way), adapted(run(2), site, way)) == set()


def test_only_the_fully_annotated_site_takes_part_in_pretraining(run):
    exchange = json.loads((run().app / "exchange.json").read_text(encoding="utf-8"))
    assert [sorted(moved["sites"]) for moved in exchange["rounds"]] == [["full"], ["full", "liver"]]
    assert [sorted(entry["sites"]) for entry in run().report["rounds"]] == [["full"], ["full", "liver"]]


@pytest.mark.parametrize("site", SITES)
def test_an_adapted_model_keeps_its_frozen_part_bit_for_bit(run, site):
    config, federated = get_preset("phantom_psmos").network, run().weights
    encoder = {name for name in federated if is_encoder(name, config)}
    decoder = set(federated) - encoder
    assert len(encoder) > 5
    assert len(decoder) > 5
    moved = {way: differing(adapted(run(), site, way), federated) for way in ADAPTATION_WAYS}
    assert moved == {"all": encoder | decoder, "encoder_frozen": decoder, "decoder_frozen": encoder}


def test_adapted_models_stay_at_their_sites(run):
    """The server's folder of the simulator's workspace is what a federation would let its lead download."""
    found = {path.relative_to(run().workspace).parts[0] for path in run().workspace.rglob("adapted_*.safetensors")}
    assert found == set(SITES)
    served = [path.name for path in (run().workspace / "server").rglob("*.safetensors")]
    assert "global_model.safetensors" in served
    assert not any("adapted" in name or "local" in name for name in served)


def test_the_report_has_every_adapted_model_beside_the_federated_one(run):
    report = run().report
    validate_report(report)
    assert set(report["adapted_sites"]) == set(report["adapted_cases"]) == set(ADAPTATION_WAYS)
    numbers = []
    for by_site in report["adapted_sites"].values():
        assert {site: set(classes) for site, classes in by_site.items()} == {
            "full": set(all_classes(report)),
            "liver": {"liver"},
        }
        summaries = [summary for classes in by_site.values() for summary in classes.values()]
        numbers += [summary[metric]["mean"] for summary in summaries for metric in ("dice", "hd95_mm", "assd_mm")]
    assert len(numbers) == len(ADAPTATION_WAYS) * 6 * 3
    assert all(value is None or math.isfinite(value) for value in numbers)
    assert any(value is not None for value in numbers)
    assert "site adaptation" in report["phases"]


def test_a_model_that_exists_is_scored_and_adapted_without_a_round(run, hospitals, tmp_path):
    given = run().app / "best_global_model.safetensors"
    options = ["--rounds", "0", "--set", "pretrain_rounds=0", "--set", "adapt_steps=1", "--sites", "liver"]
    sources = ["--site-config", str(hospitals), "--start-from", str(given)]
    done = command(tmp_path / "out", "psmos_adapt", *options, *sources)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    validate_report(report)
    assert differing(load_model(tmp_path / "out" / "global_model.safetensors")[0], load_model(given)[0]) == set()
    assert report["rounds"] == []
    assert report["sites"] == {"liver": run().report["sites"]["liver"]}, "the same model on the same cases"
    assert {(way, site) for way, by_site in report["adapted_sites"].items() for site in by_site} == {
        (way, "liver") for way in ADAPTATION_WAYS
    }
    kept = {str(path.relative_to(tmp_path / "out" / "adapted")) for path in tmp_path.rglob("adapted_*.safetensors")}
    assert kept == {f"liver/adapted_{way}.safetensors" for way in ADAPTATION_WAYS}, "the user is the site here"


def test_a_run_without_its_pretraining_site_ends_with_its_name(hospitals, tmp_path):
    """As FLARE starts it, without fedpartial's check of the job."""
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"full: takes no part in this job, and the plan's pretrain_sites name it"):
        simulate(small_job("psmos", tmp_path, SITES[1:]), workspace_for(SITES[1:], hospitals, tmp_path), 1)
    app = tmp_path / "workspace" / "server" / "simulate_job" / "app_server"
    assert not list(app.glob("*.safetensors")), "nothing was trained"
    assert time.monotonic() - started < 120


def test_encoders_of_organs_that_nobody_annotates_keep_their_first_weights(menu):
    before = canonical_state(build_network(get_preset("phantom_menu"), seed=0))
    before = {name: value.numpy() for name, value in before.items()}
    idle = {name for name in before if name.startswith(("encoders.pancreas.", "encoders.kidney."))}
    unused = {name for name in before if name.startswith("decoder.side_outputs.")}
    assert (len(idle), len(unused)) == (32, 8)
    assert differing(menu.weights, before) == set(before) - idle - unused
    validate_report(menu.report)
    assert set(menu.report["sites"]) == {"liver", "spleen"}
