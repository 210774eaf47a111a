"""The recorder follows a run: progress lines, the best model, failures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from in_process import Engine, context, peer
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.shareable import make_reply
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from federation import tiny_plan
from fedpartial.evaluation.formats import rough_duration
from fedpartial.flare.exchange_watch import EXCHANGE_FILE
from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.persistor import BEST_MODEL, GlobalModelFile
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.progress import ProgressFile
from fedpartial.flare.recorder import RunRecorder
from fedpartial.flare.standalone import NoAggregation
from fedpartial.flare.weights import update_message
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.training.model_file import load_model

FACTS = {"device": "cpu", "precision": "float32", "source": "phantom", "setup_seconds": 1.0, "num_training": 2}
SCORES = ({}, {"liver": 0.4}, {"liver": 0.3}, {"liver": 0.6})
"""Dice that each round's sites measure of the model they got."""


def filled(value: float) -> ModelLearnable:
    return make_model_learnable({"w": np.full(3, value, np.float32)}, {})


class Run:
    """A server with a recorder; rounds are played by firing FLARE's events in FLARE's order."""

    def __init__(self, root, num_rounds: int = 4, **more: FLComponent):
        self.recorder = RunRecorder()
        plan = RunPlan(**tiny_plan(num_rounds=num_rounds).to_dict())
        components = {"plan": plan, "persistor": GlobalModelFile(), "recorder": self.recorder, **more}
        self.engine = Engine(components, ("a", "b"))
        self.fl_ctx = context(self.engine, "server", root)
        self.app = root / "app"
        self.fire(EventType.START_RUN)

    def fire(self, event: str, **props) -> None:
        for key, value in props.items():
            self.fl_ctx.set_prop(
                getattr(AppConstants, key), value, private=True, sticky=key in ("GLOBAL_MODEL", "CURRENT_ROUND")
            )
        self.engine.fire_event(event, self.fl_ctx)

    def play(self, number: int, scores: dict, accepted: bool = True, taken: int = 1, change: int = 1) -> None:
        """A round whose global model is filled with the round's number, and after it with ``change`` more."""
        self.fire(AppEventType.ROUND_STARTED, GLOBAL_MODEL=filled(number), CURRENT_ROUND=number)
        for site in ("a", "b"):
            numbers = {"loss": 1.0 / (1 + number), "seconds": 2.0, "bytes_down": 12, "optimizer_round": number - 1}
            metrics = {**numbers, "tensors_taken": taken, "val_dice": scores, **FACTS}
            self.fl_ctx.set_peer_context(peer(site))
            result = update_message({"w": torch.zeros(3)}, 1, metrics)
            self.fire(AppEventType.AFTER_CONTRIBUTION_ACCEPT, TRAINING_RESULT=result, AGGREGATION_ACCEPTED=accepted)
        self.fire(AppEventType.BEFORE_AGGREGATION)
        self.fire(AppEventType.ROUND_DONE, GLOBAL_MODEL=filled(number + change))

    def exchange(self) -> dict:
        return json.loads((self.app / EXCHANGE_FILE).read_text(encoding="utf-8"))

    def lines(self, event: str | None = None) -> list[dict]:
        text = (self.app / "progress.jsonl").read_text(encoding="utf-8").splitlines()
        return [line for line in map(json.loads, text) if event in (None, line["event"])]


@pytest.fixture
def run(tiny, tmp_path):
    return Run(tmp_path)


def test_an_update_that_the_aggregator_leaves_out_is_not_counted(run):
    """A late answer of an earlier round, for one."""
    run.play(0, SCORES[0], accepted=False)
    assert [line["event"] for line in run.lines()] == ["plan", "round"]


def test_progress_has_a_line_for_the_plan_every_update_and_every_round(run):
    for number, scores in enumerate(SCORES):
        run.play(number, scores)
    assert [line["event"] for line in run.lines()] == ["plan"] + ["update", "update", "round"] * 4
    (plan,) = run.lines("plan")
    assert (plan["sites"], plan["num_rounds"], plan["preset"], plan["job"]) == (2, 4, "tiny", "test")
    first = run.lines("update")[0]
    assert {key: first[key] for key in ("round", "site", "loss", "val_dice", "bytes_up", "bytes_down")} == {
        "round": 1,
        "site": "a",
        "loss": 1.0,
        "val_dice": None,
        "bytes_up": 12,
        "bytes_down": 12,
    }
    assert first["remaining_seconds"] >= 0
    assert [line["val_dice"] for line in run.lines("update")[2:]] == [0.4, 0.4, 0.3, 0.3, 0.6, 0.6]
    assert [line["previous_val_dice"] for line in run.lines("round")] == [None, 0.4, 0.3, 0.6]
    assert all(line["seconds"] >= 0 for line in run.lines("round"))
    assert all(line["time"] > 1.7e9 for line in run.lines())


def test_the_best_model_is_the_one_that_was_scored(run):
    """Round r's sites score the model that round r started from, which round r - 1 produced."""
    best = []
    for number, scores in enumerate(SCORES):
        run.play(number, scores)
        if (run.app / BEST_MODEL).exists():
            tensors, info = load_model(run.app / BEST_MODEL)
            best.append((tensors["w"].tolist(), info.round_number, info.val_dice))
    assert best == [([1.0] * 3, 1, 0.4), ([1.0] * 3, 1, 0.4), ([3.0] * 3, 3, 0.6)]
    assert (run.recorder.history.best_round, run.recorder.history.best_dice) == (3, 0.6)


def test_the_initial_weights_are_never_the_best_model(run):
    run.play(0, {"liver": 0.9})
    assert not (run.app / BEST_MODEL).exists()


@pytest.mark.parametrize("reason", ["labels: expected a class name", None])
def test_a_failure_is_recorded_with_its_public_reason(run, reason, caplog):
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    if reason:
        reply.set_header(REASON_HEADER, reason)
    run.fl_ctx.set_peer_context(peer("b", reply))
    run.fire(EventType.BEFORE_TASK_RESULT_FILTER)
    said = reason or ReturnCode.EXECUTION_EXCEPTION
    assert run.recorder.failures == {"b": said}
    assert [(line["site"], line["reason"]) for line in run.lines("failure")] == [("b", said)]
    assert f"site b failed: {said}" in caplog.text


@pytest.mark.parametrize("code", [ReturnCode.OK, ReturnCode.EMPTY_RESULT])
def test_good_answers_are_no_failures(run, code):
    run.fl_ctx.set_peer_context(peer("b", make_reply(code)))
    run.fire(EventType.BEFORE_TASK_RESULT_FILTER)
    run.fl_ctx.set_peer_context(peer("b", None))
    run.fire(EventType.BEFORE_TASK_RESULT_FILTER)
    assert run.recorder.failures == {}
    assert not run.lines("failure")


@pytest.mark.parametrize("reason", ["no clients", None])
def test_a_panic_is_recorded(run, reason):
    run.fl_ctx.set_prop(FLContextKey.EVENT_DATA, reason, private=True, sticky=False)
    run.fire(EventType.FATAL_SYSTEM_ERROR)
    assert [line["reason"] for line in run.lines("panic")] == [reason or "the server stopped the job"]


def test_progress_is_appended_line_by_line(tmp_path):
    progress = ProgressFile(tmp_path)
    progress.write("plan", sites=2, text="zwei\nZeilen")
    ProgressFile(tmp_path).write("round", round=1)
    lines = (tmp_path / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["plan", "round"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown time"), (0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_durations_for_people(seconds, text):
    assert rough_duration(seconds) == text


# --- the exchange -------------------------------------------------------------------------------------


def test_the_exchange_of_every_round_is_written_down(run):
    run.play(0, SCORES[0])
    run.play(1, SCORES[1])
    found = run.exchange()
    assert (found["exchange"], found["shared"], found["faults"]) == ("all", {"w": {"shape": [3], "bytes": 12}}, [])
    assert [(r["round"], r["tensors_down"], r["tensors_changed"], set(r["sites"])) for r in found["rounds"]] == [
        (1, 1, 1, {"a", "b"}),
        (2, 1, 1, {"a", "b"}),
    ]
    assert not run.lines("panic")
    assert not run.engine.signal.triggered
    assert load_run_state(run.app / RUN_STATE).history["exchange"] == found["rounds"]
    assert not list(run.app.glob("*.part"))


def test_a_global_model_that_does_not_change_ends_the_run(run):
    run.play(0, SCORES[0])
    run.play(1, SCORES[1], change=0)
    (panic,) = run.lines("panic")
    assert "round 2: the global model did not change" in panic["reason"]
    assert run.engine.signal.triggered
    assert run.exchange()["faults"] == [panic["reason"]]
    assert load_run_state(run.app / RUN_STATE).rounds == 1, "the round is not finished"


def test_a_site_that_does_not_take_over_what_was_sent_ends_the_run(run):
    run.play(0, SCORES[0], taken=0)
    reasons = [line["reason"] for line in run.lines("panic")]
    assert reasons == [
        f"round 1: site {site} did not take over what was sent: it starts from 0 of the 1 tensors" for site in "ab"
    ]
    assert run.engine.signal.triggered
    assert run.exchange()["faults"] == reasons


def test_standalone_training_needs_no_exchange(tiny, tmp_path):
    run = Run(tmp_path, shareable_generator=NoAggregation())
    run.play(0, SCORES[0], taken=1, change=0)
    run.play(1, SCORES[1], taken=0, change=0)
    assert not run.lines("panic")
    assert [r["sites"]["a"]["tensors_taken"] for r in run.exchange()["rounds"]] == [1, 0]


def test_a_continued_run_goes_on_with_the_exchange(tiny, tmp_path):
    first = Run(tmp_path / "first")
    first.play(0, SCORES[0])
    second = tmp_path / "second"
    (second / "app").mkdir(parents=True)
    shutil.copyfile(first.app / RUN_STATE, second / "app" / RUN_STATE)
    run = Run(second)
    run.play(1, SCORES[1])
    assert [r["round"] for r in run.exchange()["rounds"]] == [1, 2]
