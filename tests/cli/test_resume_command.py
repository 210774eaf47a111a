"""``fedpartial resume``: the job that continues an interrupted run, from every form in which one is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedpartial.cli.job_folder import read_job
from fedpartial.cli.main import app
from fedpartial.flare.persistor import BEST_MODEL
from fedpartial.server.run_history import RunHistory
from fedpartial.server.run_state import RUN_STATE, RunState, load_run_state, save_run_state
from fedpartial.training.model_file import model_info, save_model
from fedpartial.training.plan import Plan

JOB = Path(__file__).parents[2] / "jobs" / "fedavg"
ID, EARLIER = "7a2c6f0e-1b7d-4a86-9c43-0123456789ab", "11111111-2222-3333-4444-555555555555"
SITES = ["kidney", "liver", "pancreas", "spleen"]
LAYOUTS = {
    "a download": f"{ID}/workspace",
    "a job's folder at the server": ID,
    "the folder of fedpartial run": "first/workspace/server/simulate_job",
    "a simulator's workspace": "simulator_workspace/server/simulate_job",
}
PLAN = Plan(job="fedavg", preset="phantom", num_rounds=8, local_steps=45)
WEIGHTS = {"a": np.ones(2, np.float32)}


def leave(folder: Path, *, rounds: int = 3, plan: Plan = PLAN, simulated: bool = False) -> Path:
    """What a run leaves at the server: FLARE's meta.json, the server's app, the state after ``rounds``."""
    server_app = folder / "app_server"
    shutil.copytree(JOB / "app", server_app)
    (server_app / "config" / ".__nvfl_sig.json").write_text("{}", encoding="utf-8")
    meta = {**json.loads((JOB / "meta.json").read_text()), "job_id": "simulate_job" if simulated else ID}
    (folder / "meta.json").write_text(json.dumps({**meta, "submitter_name": "lead", "byoc": True}))
    history = RunHistory(plan.num_rounds).to_dict()
    values = {"plan": plan.to_dict(), "rounds": rounds, "weights": WEIGHTS, "velocity": {}, "history": history}
    save_run_state(server_app / RUN_STATE, RunState(**values))
    save_model(server_app / BEST_MODEL, WEIGHTS, model_info(plan, 2, 0.5))
    return folder


def resume(*arguments: object):
    return CliRunner().invoke(app, ["resume", *map(str, arguments)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_is_found_in_every_form(tmp_path, layout):
    simulated = "simul" in LAYOUTS[layout]
    run = leave(tmp_path / LAYOUTS[layout], simulated=simulated)
    if simulated:
        state = run.parents[1] / "liver" / "simulate_job" / "app_liver" / "state"
        state.mkdir(parents=True)
        (state / "after_round_00002.safetensors").write_bytes(b"state")
    done = resume(tmp_path / LAYOUTS[layout].split("/")[0], "-o", tmp_path / "next")
    assert done.exit_code == 0, done.output
    assert "3 of 8 rounds are finished, round 4 is next" in done.output
    job = read_job(tmp_path / "next")
    assert set(job.sites) == set(SITES)
    assert "submitter_name" not in job.meta
    assert not list(job.folder.rglob(".__nvfl_*"))
    server = job.folder / "app_server"
    assert load_run_state(server / RUN_STATE).rounds == 3
    assert (server / BEST_MODEL).is_file()
    (plan,) = [component for component in job.server["components"] if component["id"] == "plan"]
    assert plan["args"]["resumed_jobs"] == ([] if simulated else [ID])
    states = [path.relative_to(job.folder).as_posix() for path in job.folder.rglob("after_round_*")]
    assert states == (["app_liver/state/after_round_00002.safetensors"] if simulated else [])
    assert ("fedpartial run" if simulated else "nvflare job submit") in done.output


def test_a_continued_run_is_continued_again(tmp_path):
    plan = Plan(**{**PLAN.to_dict(), "resumed_jobs": [EARLIER]})
    leave(tmp_path / ID, plan=plan)
    assert resume(tmp_path / ID, "-o", tmp_path / "next").exit_code == 0
    (args,) = [c["args"] for c in read_job(tmp_path / "next").server["components"] if c["id"] == "plan"]
    assert args["resumed_jobs"] == [ID, EARLIER]


def test_a_job_that_ended_before_its_first_round_is_in_the_chain(tmp_path):
    """Its state is still that of the job before it: only its configuration knows that one's id."""
    run = leave(tmp_path / ID)
    config = run / "app_server" / "config" / "config_fed_server.json"
    given = json.loads(config.read_text())
    next(c for c in given["components"] if c["id"] == "plan")["args"]["resumed_jobs"] = [EARLIER]
    config.write_text(json.dumps(given))
    assert resume(tmp_path / ID, "-o", tmp_path / "next").exit_code == 0
    (args,) = [c["args"] for c in read_job(tmp_path / "next").server["components"] if c["id"] == "plan"]
    assert args["resumed_jobs"] == [ID, EARLIER]


def test_a_run_that_only_lacks_what_follows_its_rounds_is_continued(tmp_path):
    leave(tmp_path / ID, rounds=8)
    done = resume(tmp_path / ID, "-o", tmp_path / "next")
    assert done.exit_code == 0, done.output
    assert "8 of 8 rounds are finished, what follows the rounds is next" in done.output


def test_a_run_made_with_other_code_is_told_the_way(tmp_path):
    run = leave(tmp_path / ID)
    (run / "app_server" / "config" / "fedpartial_manifest.json").write_text(json.dumps({"package_hash": "0" * 64}))
    done = resume(tmp_path / ID, "-o", tmp_path / "next")
    assert "made with other code; to go on with yours: fedpartial bundle" in done.output


def test_fewer_sites_may_be_enough_from_now_on(tmp_path):
    leave(tmp_path / ID)
    assert resume(tmp_path / ID, "-o", tmp_path / "next", "--min-sites", 3).exit_code == 0
    job = read_job(tmp_path / "next")
    assert (job.meta["min_clients"], job.server["min_clients"]) == (3, 3)


@pytest.mark.parametrize(
    ("rounds", "options", "message"),
    [
        (8, [], "This run is complete"),
        (3, ["--min-sites", 5], "1 to 4"),
    ],
)
def test_what_cannot_be_continued_is_refused_and_nothing_is_written(tmp_path, rounds, options, message):
    run = leave(tmp_path / ID, rounds=rounds)
    (run / "app_server" / "report.json").write_text("{}")
    done = resume(tmp_path / ID, "-o", tmp_path / "next", *options)
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == [ID]


def test_a_run_without_a_finished_round_is_told_to_start_again(tmp_path):
    leave(tmp_path / ID)
    (tmp_path / ID / "app_server" / RUN_STATE).unlink()
    done = resume(tmp_path / ID, "-o", tmp_path / "next")
    assert done.exit_code == 2
    assert "simply started again" in done.output


def test_another_length_in_the_job_is_seen(tmp_path):
    """The schedules of the remaining rounds would differ from those of the finished ones."""
    run = leave(tmp_path / ID)
    config = run / "app_server" / "config" / "config_fed_server.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_rounds": 12}))
    done = resume(tmp_path / ID, "-o", tmp_path / "next")
    assert done.exit_code == 2
    assert "num_rounds: got 12" in done.output


def test_an_existing_folder_is_not_overwritten(tmp_path):
    leave(tmp_path / ID)
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "mine.txt").write_text("mine")
    assert resume(tmp_path / ID, "-o", tmp_path / "next").exit_code == 2
    assert [path.name for path in (tmp_path / "next").iterdir()] == ["mine.txt"]
