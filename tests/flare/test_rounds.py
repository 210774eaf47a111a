"""k of n: a round waits for the sites that live and needs min_clients accepted updates."""

from __future__ import annotations

import json

import pytest
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.shareable import make_reply
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.persistor import GLOBAL_MODEL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.training.model_file import load_model

pytestmark = pytest.mark.usefixtures("without_figures")


def events(server, kind: str) -> list[dict]:
    return [line for line in server.progress() if line["event"] == kind]


def test_the_round_goes_on_without_a_site_that_is_gone(make_server):
    server = make_server(None, FedAvg(), num_rounds=2)
    server.link.gone.add("spleen")
    server.run(min_clients=1)
    assert {line["site"] for line in events(server, "update")} == {"liver"}
    assert not events(server, "panic")
    assert load_model(server.app / GLOBAL_MODEL)[1].round_number == 2
    assert {line["site"] for line in events(server, "scored")} == {"liver"}


def test_too_few_living_sites_end_the_job_by_name(make_server):
    server = make_server(None, FedAvg(), num_rounds=2)
    server.link.gone.add("spleen")
    server.run(min_clients=2)
    assert "round 1 needs 2 update(s) and cannot get them. spleen: gone." in events(server, "panic")[0]["reason"]
    assert not events(server, "update")


def test_a_site_lost_later_keeps_the_finished_rounds(make_server):
    server = make_server(None, FedAvg(), num_rounds=3)
    link, ask = server.link, server.link.broadcast_and_wait

    def lose_spleen_in_round_two(task, fl_ctx, targets, *rest, **options):
        if load_state(server) == 1:
            link.gone.add("spleen")
            targets = [client for client in targets if client.name != "spleen"]
        ask(task, fl_ctx, targets, *rest, **options)

    link.broadcast_and_wait = lose_spleen_in_round_two
    server.run(min_clients=2)
    reason = events(server, "panic")[0]["reason"]
    assert "round 2 needs 2 update(s) and cannot get them. spleen: gone." in reason
    assert "fedpartial resume" in reason
    assert load_model(server.app / GLOBAL_MODEL)[1].round_number == 1
    assert load_state(server) == 1


def load_state(server) -> int:
    path = server.app / RUN_STATE
    return load_run_state(path).rounds if path.exists() else 0


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_every_finished_round_is_in_the_state(make_server, num_rounds):
    server = make_server(None, FedAvg(), num_rounds=num_rounds)
    server.run(evaluate=False)
    state = load_run_state(server.app / RUN_STATE)
    assert state.rounds == num_rounds == len(state.history["rounds"])


def test_a_site_that_goes_and_comes_back_is_told(make_server):
    """FLARE's communicator fires these events; the progress file and the reasons follow."""
    server = make_server(None, FedAvg(), num_rounds=1)
    server.run(evaluate=False)
    recorder = server.engine.components["recorder"]
    server.fl_ctx.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, "spleen")
    server.engine.fire_event(EventType.CLIENT_DISCONNECTED, server.fl_ctx)
    assert recorder.failures == {"spleen": "its job process is gone"}
    server.fl_ctx.set_prop(FLContextKey.RECONNECTED_CLIENT_NAME, "spleen")
    server.engine.fire_event(EventType.CLIENT_RECONNECTED, server.fl_ctx)
    assert recorder.failures == {}
    assert [line["site"] for line in (*events(server, "gone"), *events(server, "back"))] == ["spleen", "spleen"]


def test_a_site_that_cannot_train_is_named_with_its_reason_when_it_is_needed(make_server):
    server = make_server(None, FedAvg(), num_rounds=1)
    hospital = server.link.hospitals["liver"]
    path = hospital.root / "local" / "sites" / "liver.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_root": str(hospital.root / "mrs_miller")}))
    server.run(min_clients=2)
    assert "liver: data_root: expected an existing folder" in events(server, "panic")[0]["reason"]
    assert "mrs_miller" not in json.dumps(server.progress())
    assert not events(server, "update"), "spleen is not asked for a round that is lost"


def test_too_few_sites_left_in_a_round_end_the_job_by_name_before_flare_does(make_server):
    server = make_server(None, FedAvg(), num_rounds=1)
    ask = server.link.broadcast_and_wait

    def lose_spleen(task, fl_ctx, targets, *rest, **options):
        server.link.gone.add("spleen")
        server.fl_ctx.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, "spleen")
        server.engine.fire_event(EventType.CLIENT_DISCONNECTED, server.fl_ctx)
        ask(task, fl_ctx, targets, *rest, **options)

    server.link.broadcast_and_wait = lose_spleen
    server.run(min_clients=2)
    assert (
        "round 1 needs 2 update(s) and cannot get them. spleen: its job process is gone"
        in (events(server, "panic")[0]["reason"])
    )


def test_the_final_evaluation_does_not_wait_for_a_site_that_went_in_the_rounds(make_server):
    """Its communicator is a new one that has not heard of it."""
    server = make_server(None, FedAvg(), num_rounds=1)
    recorder = server.engine.components["recorder"]
    recorder.gone, recorder.failures = {"spleen"}, {"spleen": "its job process is gone"}
    server.run(min_clients=1)
    assert [line["site"] for line in events(server, "scored")] == ["liver"]
    assert (
        "spleen gave no scores: its job process is gone"
        in json.loads((server.app / "report.json").read_text())["notes"]
    )


def test_an_answer_to_a_round_that_is_over_changes_nothing(make_server):
    """spleen was counted as gone; its answer of round 1 comes while liver trains round 2."""
    server = make_server(None, FedAvg(), num_rounds=2)
    server.link.gone.add("spleen")
    liver, train = server.link.hospitals["liver"], server.link.hospitals["liver"].execute

    def with_a_late_answer(task_name, task, signal=None):
        if task_name == "train" and task.get_header(AppConstants.CURRENT_ROUND) == 1:
            rounds = server.engine.workflows[0]
            late = make_reply(ReturnCode.EXECUTION_EXCEPTION)
            for answer in (late, train("train", task)):
                rounds.process_result_of_unknown_task(Client("spleen", ""), "train", "id", answer, server.fl_ctx)
        return train(task_name, task, signal)

    liver.execute = with_a_late_answer
    server.run(min_clients=1, evaluate=False)
    assert not events(server, "panic")
    assert [line["site"] for line in events(server, "update")] == ["liver", "liver"]
    assert load_state(server) == 2


def test_a_site_that_dies_after_its_answer_still_counts(make_server):
    """Of three sites with k = 2: one has answered and is gone, one is gone, one trains on. Two updates can be had."""
    server = make_server(None, FedAvg(), num_rounds=1)
    server.run(evaluate=False)
    rounds = server.engine.workflows[0]
    server.engine.sites = ("a", "b", "c")
    rounds._asked, rounds._accepted, rounds._refused, rounds._waiting = ["a", "b", "c"], {"a"}, set(), True
    rounds._min_clients = 2
    server.link.gone |= {"a", "b"}
    rounds.handle_event(EventType.CLIENT_DISCONNECTED, server.fl_ctx)
    assert not events(server, "panic")
    server.link.gone.add("c")
    rounds.handle_event(EventType.CLIENT_DISCONNECTED, server.fl_ctx)
    (panic,) = events(server, "panic")
    assert "b: gone; c: gone" in panic["reason"]
    assert "a: " not in panic["reason"]


def test_the_reason_of_an_earlier_round_is_forgotten(make_server):
    server = make_server(None, FedAvg(), num_rounds=1)
    server.engine.components["recorder"].failures["liver"] = "an old reason"
    server.run(evaluate=False)
    assert server.engine.components["recorder"].failures == {}
