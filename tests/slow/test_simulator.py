"""A whole job in FLARE's simulator, as the README starts it: the same global model whatever the processes.

That a seed gives the same numbers again, and that a job of every kind runs, is what test_compare.py shows.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from simulation import Run, simulate, small_job

from fedpartial.evaluation.record import validate_report
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SITES = ("liver", "spleen")
NUM_ROUNDS, LOCAL_STEPS = 3, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(threads=2)``: a run of condistfl with so many site processes at a time, made once."""
    done: dict[int, Run] = {}

    def get(*, threads: int) -> Run:
        if threads not in done:
            folder = tmp_path_factory.mktemp("simulator")
            job = small_job("condistfl", folder, SITES, num_rounds=NUM_ROUNDS, local_steps=LOCAL_STEPS)
            done[threads] = simulate(job, folder / "workspace", threads)
        return done[threads]

    return get


def equal(a: Run, b: Run) -> bool:
    ours, theirs = a.weights, b.weights
    assert set(ours) == set(theirs)
    assert len(ours) > 10
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_new_process_for_every_task_and_lasting_ones_give_the_same_model(run):
    assert equal(run(threads=1), run(threads=2))


def test_a_run_leaves_models_a_report_and_curves(run):
    finished = run(threads=2)
    report = finished.report
    validate_report(report)
    assert (report["job"], report["preset"], report["seed"]) == ("condistfl", "phantom", 0)
    assert [r["round"] for r in report["rounds"]] == [1, 2, 3]
    assert all(set(r["sites"]) == set(SITES) for r in report["rounds"])
    assert all(np.isfinite(s["loss"]) for r in report["rounds"] for s in r["sites"].values())
    assert set(report["sites"]) == set(SITES)
    assert report["cases"]["external"], "the phantom's external set is scored"
    selected = report["selected_model"]["round"]
    _, best = load_model(finished.app / "best_global_model.safetensors")
    weights, info = load_model(finished.app / "global_model.safetensors")
    assert (best.round_number, info.round_number) == (selected, NUM_ROUNDS)
    assert report["exchange"]["parameters"] == sum(value.size for value in weights.values())
    assert (finished.app / "report.html").stat().st_size > 10_000
    for site in SITES:
        events = list((finished.workspace / "server" / "simulate_job" / "tb_events" / site).glob("events.*"))
        assert events, site
        assert sum(path.stat().st_size for path in events) > 500


def test_progress_ends_with_the_report(run):
    lines = (run(threads=1).app / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("update") == NUM_ROUNDS * len(SITES)
    assert events.count("round") == NUM_ROUNDS
    assert events[-1] == "report"


def test_nothing_is_left_in_the_callers_folder(run):
    """Everything a run writes is in its workspace; "home" is where libraries keep their caches."""
    workspace = run(threads=2).workspace
    names = {path.name for path in workspace.parent.iterdir()}
    assert names == {"condistfl", "workspace", "workspace.log", "home"}
