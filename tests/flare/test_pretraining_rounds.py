"""Rounds in which only the pretraining sites take part, rounds that are not scored, and runs without any round."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_process import Hospital, Server
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

from federation import complete_labels
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.aggregator import SiteMean
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL, GlobalModelFile
from fedpartial.flare.rounds import NOTHING_TO_DO, PRETRAINING_ALONE
from fedpartial.flare.standalone import NoAggregation
from fedpartial.flare.weights import METRICS
from fedpartial.methods.margexc import MargExc
from fedpartial.server.run_history import RunHistory
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.sites import SiteConfig
from fedpartial.training.model_file import load_model, model_info, save_model

pytestmark = pytest.mark.usefixtures("without_figures")
PRETRAINED = {"pretrain_rounds": 1, "pretrain_sites": ["full"]}


@pytest.fixture
def make(tiny, tiny_sites, tmp_path) -> Callable[..., Server]:
    """Builds a server with hospitals by name: "full" (the liver hospital, where every class is annotated), "liver",
    "spleen"."""
    sites = {**tiny_sites, "full": replace(tiny_sites["liver"], name="full", labels=complete_labels())}

    def build(*names: str, folder: str = "run", lasting: bool = True, **plan) -> Server:
        root = tmp_path / folder
        hospitals = {n: hospital_of(sites[n], root / "sites" / n, lasting) for n in names}
        return Server(root / "server", hospitals, FullModelShareableGenerator(), **plan)

    return build


def hospital_of(site: SiteConfig, root: Path, lasting: bool = True) -> Hospital:
    return Hospital(site, MargExc(), root, lasting=lasting)


def told(server: Server, kind: str) -> list[dict]:
    return [line for line in server.progress() if line["event"] == kind]


def updates(server: Server) -> list[tuple[int, str]]:
    return [(line["round"], line["site"]) for line in told(server, "update")]


def reason(server: Server) -> str:
    (panic,) = told(server, "panic")
    return panic["reason"]


def assert_equal(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    assert not [name for name in a if not np.array_equal(a[name], b[name])]


# --- pretraining --------------------------------------------------------------------------------------


@pytest.fixture
def finished(make) -> Server:
    """One round of pretraining, two of both sites; every task in a process of its own."""
    server = make("full", "spleen", num_rounds=3, lasting=False, **PRETRAINED)
    server.run(min_clients=2)
    return server


def test_only_the_pretraining_sites_are_asked_in_these_rounds(finished):
    assert updates(finished) == [(1, "full"), (2, "full"), (2, "spleen"), (3, "full"), (3, "spleen")]
    assert not told(finished, "panic")
    assert not told(finished, "optimizer"), "a new phase is no reason for a warning"
    report = json.loads((finished.app / "report.json").read_text(encoding="utf-8"))
    validate_report(report)
    assert [set(r["sites"]) for r in report["rounds"]] == [{"full"}, {"full", "spleen"}, {"full", "spleen"}]


def test_the_progress_file_names_the_phases_and_the_time_that_is_left(finished):
    phases = [line["name"] for line in told(finished, "phase")]
    assert phases[:3] == ["pretraining at full", "federated rounds", "final evaluation"]
    left = [line["remaining_seconds"] for line in told(finished, "update")]
    assert all(seconds > 0 for seconds in left[:-1])
    assert left[-1] == 0, "nobody waits for the updates that other sites do not send while one pretrains"


@pytest.mark.parametrize(("skipped", "left"), [(0, 4), (3, 1)])
def test_the_remaining_time_counts_only_updates_that_will_come(skipped, left):
    """Two of six updates are done; of a run with skipped ones two of three."""
    history = RunHistory(3)
    history._started -= 100
    history.start_round(0)
    history.rounds[0].sites = {"a": {}, "b": {}}
    assert history.remaining_seconds(2, skipped) == pytest.approx(100 * left / 2, rel=0.05)


def test_after_pretraining_the_global_model_is_that_of_the_site_alone(make):
    """jobs/psmos_pretrain is the first phase of jobs/psmos, bit for bit; nothing of the others is in it."""
    both = make("full", "spleen", num_rounds=2, pretrain_rounds=2, pretrain_sites=["full"])
    alone = make("full", folder="alone", num_rounds=2)
    both.run(min_clients=2, evaluate=False)
    alone.run(evaluate=False)
    assert_equal(*(load_model(server.app / GLOBAL_MODEL)[0] for server in (both, alone)))
    assert updates(both) == updates(alone) == [(1, "full"), (2, "full")]


def test_a_continued_run_goes_on_in_its_phase(make):
    server = make("full", "spleen", num_rounds=2, **PRETRAINED)
    server.run(min_clients=2, evaluate=False)
    assert load_run_state(server.app / RUN_STATE).plan["pretrain_sites"] == ["full"]
    first = make("full", "spleen", folder="first", num_rounds=2, **PRETRAINED)
    lose(first, "spleen", in_round=1)
    first.run(min_clients=2, evaluate=False)
    assert "round 2 needs 2 update(s) and cannot get them. spleen: its job process is gone" in reason(first)
    again = Server(first.root, first.link.hospitals, FullModelShareableGenerator(), num_rounds=2, **PRETRAINED)
    again.run(min_clients=2, evaluate=False)
    assert_equal(*(load_model(s.app / GLOBAL_MODEL)[0] for s in (server, again)))


def lose(server: Server, site: str, *, in_round: int) -> None:
    """The job process of a site dies as soon as this round (from 0) is asked for."""
    ask = server.link.broadcast_and_wait

    def losing(task, fl_ctx, targets, *rest, **options):
        if task.data.get_header(AppConstants.CURRENT_ROUND) == in_round:
            server.link.gone.add(site)
            fl_ctx.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, site)
            fl_ctx.get_engine().fire_event(EventType.CLIENT_DISCONNECTED, fl_ctx)
            targets = [client for client in targets if client.name != site]
        ask(task, fl_ctx, targets, *rest, **options)

    server.link.broadcast_and_wait = losing


def test_a_pretraining_site_that_is_not_in_the_job_stops_it_by_name(make):
    server = make("liver", "spleen", num_rounds=2, **PRETRAINED)
    server.run()
    assert "round 1 needs 1 update(s) and cannot get them." in reason(server)
    assert "full: takes no part in this job, and the plan's pretrain_sites name it" in reason(server)
    assert not updates(server)


def test_every_pretraining_site_is_needed_whatever_min_clients_says(make):
    server = make("full", "spleen", num_rounds=2, pretrain_rounds=1, pretrain_sites=["full", "other"])
    server.run(min_clients=1)
    assert "round 1 needs 2 update(s)" in reason(server)
    assert "other: takes no part" in reason(server)
    assert "full: " not in reason(server)


@pytest.mark.parametrize("when", ["before", "while it trains"])
def test_a_pretraining_site_that_dies_stops_the_job_by_name(make, when):
    server = make("full", "spleen", num_rounds=2, **PRETRAINED)
    if when == "before":
        server.link.gone.add("full")
    else:
        lose(server, "full", in_round=0)
    server.run(min_clients=1)
    why = {"before": "gone", "while it trains": "its job process is gone"}[when]
    assert f"round 1 needs 1 update(s) and cannot get them. full: {why}" in told(server, "panic")[0]["reason"]
    assert not updates(server)


def test_another_site_may_be_away_while_one_pretrains(make):
    server = make("full", "spleen", num_rounds=1, **PRETRAINED)
    server.link.gone.add("spleen")
    server.run(min_clients=2, evaluate=False)
    assert updates(server) == [(1, "full")]
    assert not told(server, "panic")


def test_a_pretraining_site_without_a_fully_annotated_case_stops_the_job_with_its_reason(make):
    server = make("liver", "spleen", num_rounds=2, pretrain_rounds=1, pretrain_sites=["liver"])
    server.run(min_clients=1)
    assert "liver: pretrain_sites: expected cases with all of liver, liver_tumor, spleen" in reason(server)
    assert not updates(server)


def test_a_model_that_only_pretraining_sites_scored_is_never_the_best(make):
    """The fully annotated site calls the first model perfect; the second one is the first that all have scored."""
    server = make("full", "spleen", num_rounds=3, pretrain_rounds=2, pretrain_sites=["full"])
    hospital = server.link.hospitals["full"]
    execute = hospital.execute

    def boast(task_name, task, signal=None):
        answer = execute(task_name, task, signal)
        if task_name == "train" and task.get_header(AppConstants.CURRENT_ROUND) == 1:
            from_shareable(answer).get_meta_prop(METRICS)["val_dice"] = {"liver": 1.0}
        return answer

    hospital.execute = boast
    server.run(min_clients=2, evaluate=False)
    history = server.engine.components["recorder"].history
    assert history.rounds[0].val_dice == 1.0
    assert history.rounds[1].val_dice < 1
    assert (history.best_round, history.best_dice) == (2, history.rounds[1].val_dice)
    assert load_model(server.app / BEST_MODEL)[1].round_number == 2


def test_the_mean_by_training_cases_is_numpys(make, tmp_path, tiny_sites):
    """One whole round of jobs/psmos's aggregator: two training cases against one."""
    server = make("full", "spleen", num_rounds=1)
    datalist = json.loads(tiny_sites["spleen"].datalist.read_text(encoding="utf-8"))
    small = tmp_path / "datalist.json"
    small.write_text(json.dumps({**datalist, "training": datalist["training"][:1]}), encoding="utf-8")
    hospital = server.link.hospitals["spleen"]
    path = hospital.root / "local" / "sites" / "spleen.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "datalist": str(small)}), encoding="utf-8")
    server.engine.components["aggregator"] = SiteMean(weighting="num_training")
    sent, cases = {}, {}
    for name, site in server.link.hospitals.items():
        listen(site, name, sent, cases)
    server.run(evaluate=False)
    assert cases == {"full": 2, "spleen": 1}
    start = load_model(start_file(server, tmp_path))[0]
    found = load_model(server.app / GLOBAL_MODEL)[0]
    names, weights = list(cases), list(cases.values())
    for name, value in found.items():
        mean = np.average([sent[site][name].astype(np.float64) for site in names], axis=0, weights=weights)
        np.testing.assert_allclose(value, start[name] + mean.astype(np.float32), rtol=1e-6, atol=1e-9)
        assert not np.array_equal(sent["full"][name], sent["spleen"][name]) or not mean.any()


def listen(hospital: Hospital, name: str, sent: dict, cases: dict) -> None:
    """Keep the hospital's update and its number of training cases."""
    execute = hospital.execute

    def kept(task_name, task, signal=None):
        answer = execute(task_name, task, signal)
        dxo = from_shareable(answer)
        sent[name] = {n: value.copy() for n, value in dxo.data.items()}
        cases[name] = dxo.get_meta_prop(METRICS)["num_training"]
        return answer

    hospital.execute = kept


# --- rounds that are not scored -----------------------------------------------------------------------


def test_sites_score_the_model_only_in_the_rounds_of_the_plan(make):
    server = make("full", "spleen", num_rounds=5, local_steps=1, validate_every=3, **PRETRAINED)
    server.run(min_clients=2, evaluate=False)
    scored = {line["round"] for line in told(server, "update") if line["val_dice"] is not None}
    assert scored == {2, 4}, "the model after pretraining and the one after round 3"
    history = server.engine.components["recorder"].history
    assert [r.val_dice is not None for r in history.rounds] == [True, False, True, False, False]
    assert history.best_round in (1, 3)


# --- no rounds ----------------------------------------------------------------------------------------


def start_file(server: Server, folder: Path, *, shift: float = 0.0) -> Path:
    """The preset's initial network as a model file, moved a little."""
    from fedpartial.server.heads import initial_shared

    weights = {name: value + np.float32(shift) for name, value in initial_shared(server.plan).items()}
    return save_model(folder / "start.safetensors", weights, model_info(server.plan, 4)) or folder / "start.safetensors"


def test_without_rounds_there_must_be_a_model_to_start_from(make):
    server = make("liver", "spleen", num_rounds=0)
    server.run()
    assert reason(server) == NOTHING_TO_DO
    assert not any((server.app / name).exists() for name in (GLOBAL_MODEL, RUN_STATE, "report.json"))


def test_pretraining_where_nothing_is_aggregated_is_refused(make):
    server = make("full", "liver", **PRETRAINED)
    server.engine.components["shareable_generator"] = NoAggregation()
    server.run()
    assert reason(server) == PRETRAINING_ALONE
    assert not updates(server)


def test_without_rounds_the_start_model_is_evaluated_as_it_is(make):
    server = make("liver", "spleen", num_rounds=0)
    server.app.mkdir(parents=True, exist_ok=True)
    given, _ = load_model(start_file(server, server.app, shift=0.01))
    server.engine.components["persistor"] = GlobalModelFile(start_from="start.safetensors")
    server.run()
    assert not told(server, "panic")
    assert not updates(server)
    for name in (GLOBAL_MODEL, BEST_MODEL):
        weights, info = load_model(server.app / name)
        assert_equal(weights, given)
        assert info.round_number == 0
    report = json.loads((server.app / "report.json").read_text(encoding="utf-8"))
    validate_report(report)
    assert set(report["sites"]) == {"liver", "spleen"}
    assert report["rounds"] == []
    assert report["selected_model"]["name"] == "final"
