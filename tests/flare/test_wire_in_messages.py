"""A job with half precision on the wire: both directions, the checks, the counts, and the end where it overflows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import Engine, Hospital, InProcess, context, on_the_wire, peer
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy
from test_update_guard import METRICS as NUMBERS

from federation import tiny_plan
from fedpartial.flare.learner import SiteLearner
from fedpartial.flare.leaving_content import KnownContent
from fedpartial.flare.leaving_parts import NamedParts
from fedpartial.flare.persistor import GLOBAL_MODEL
from fedpartial.flare.plan import RunPlan, plan_of_task
from fedpartial.flare.update_guard import UpdateGuard
from fedpartial.flare.weights import METRICS, MODELS, message_bytes, narrow, payload_bytes, weights_of_task
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.wire import as_received
from fedpartial.training.model_file import load_model

pytestmark = pytest.mark.usefixtures("without_figures")


def report(server) -> dict:
    return json.loads((server.app / "report.json").read_text(encoding="utf-8"))


def kinds(arrays) -> set:
    return {value.dtype for value in arrays.values()}


@pytest.fixture
def spied(monkeypatch) -> list[tuple[str, Shareable, Shareable]]:
    """(task, what came, what was answered) of every task of every site."""
    seen, execute = [], Hospital.execute

    def spy(self, task_name, task, signal=None):
        came = on_the_wire(task)
        answer = execute(self, task_name, task, signal)
        seen.append((task_name, came, on_the_wire(answer)))
        return answer

    monkeypatch.setattr(Hospital, "execute", spy)
    return seen


def test_a_run_in_half_precision_sends_halves_in_both_directions(make_server, spied):
    server = make_server(None, FedAvg(), wire="float16")
    server.run()
    trained = [(task, answer) for name, task, answer in spied if name == AppConstants.TASK_TRAIN]
    assert len(trained) == 4
    for task, answer in trained:
        assert kinds(from_shareable(task).data) == kinds(from_shareable(answer).data) == {np.dtype(np.float16)}
    scored = [task[MODELS] for name, task, _ in spied if MODELS in task]
    assert scored
    assert all(kinds(arrays) == {np.dtype(np.float16)} for models in scored for arrays in models.values())


def test_the_servers_model_stays_in_single_precision_and_its_own(make_server):
    server = make_server(None, FedAvg(), wire="float16")
    server.run()
    weights, _ = load_model(server.app / GLOBAL_MODEL)
    assert kinds(weights) == {np.dtype(np.float32)}
    assert any(not np.array_equal(as_received(weights, "float16")[n], value) for n, value in weights.items())


def test_the_report_counts_what_was_sent(make_server):
    whole, half = (make_server(None, FedAvg(), folder=wire, wire=wire) for wire in ("float32", "float16"))
    for server in (whole, half):
        server.run()
    found, expected = report(half), report(whole)
    for name in ("bytes_up", "bytes_down", "bytes_per_message", "rounds_bytes_up", "rounds_bytes_down"):
        assert np.array_equal(np.multiply(found["exchange"][name], 2), expected["exchange"][name]), name
    assert [2 * r["bytes_up"] for r in found["rounds"]] == [r["bytes_up"] for r in expected["rounds"]]
    assert [2 * r["bytes_down"] for r in found["rounds"]] == [r["bytes_down"] for r in expected["rounds"]]
    assert found["exchange"]["wire"] == "float16"
    assert "wire" not in expected["exchange"]


def test_new_processes_give_the_same_model_bit_for_bit(make_server):
    lasting = make_server(None, FedAvg(), folder="lasting", wire="float16")
    anew = make_server(None, FedAvg(), folder="anew", lasting=False, wire="float16")
    for server in (lasting, anew):
        server.run(evaluate=False)
    first, second = (load_model(server.app / GLOBAL_MODEL)[0] for server in (lasting, anew))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_sites_model_at_the_server_is_what_it_received_plus_its_update(make_server, spied):
    server = make_server(None, FedAvg(), num_rounds=1, wire="float16")
    server.run()
    trained = [(task, answer) for name, task, answer in spied if name == AppConstants.TASK_TRAIN]
    scored = next(task[MODELS] for _, task, _ in spied if MODELS in task)
    received, update = (from_shareable(message).data for message in trained[0])
    for name, sent in scored["local liver"].items():
        assert np.array_equal(sent, (received[name].astype(np.float32) + update[name]).astype(np.float16)), name


# --- what cannot be sent ------------------------------------------------------------------------------


def test_a_site_whose_update_overflows_sends_a_reason_and_no_number(make_server, monkeypatch):
    from fedpartial.training.local_trainer import LocalTrainer

    update = LocalTrainer._update

    def large(self, weights):
        found = update(self, weights)
        return {name: value * 0 + 1e6 for name, value in found.items()}

    monkeypatch.setattr(LocalTrainer, "_update", large)
    server = make_server(None, FedAvg(), wire="float16")
    server.run()
    failures = [line for line in server.progress() if line["event"] == "failure"]
    assert failures[0]["site"] == "liver"
    assert "wire: expected values of at most 65504 in tensor" in failures[0]["reason"]
    written = json.loads((server.link.hospitals["liver"].app / "site_failure.json").read_text(encoding="utf-8"))
    assert "--set wire=float32" in written["error"]


def test_a_global_model_that_overflows_ends_the_job_with_the_tensors_name(tiny, weights, tmp_path, monkeypatch):
    plan, said = RunPlan(**tiny_plan(wire="float16").to_dict()), []
    monkeypatch.setattr(plan, "system_panic", lambda reason, _: said.append(reason))
    fl_ctx = context(engine := Engine({"plan": plan}), "server", tmp_path)
    name = next(iter(weights))
    data = {**weights, name: np.full_like(weights[name], 7e4)}
    task = DXO(data_kind=DataKind.WEIGHTS, data=data).to_shareable()
    fl_ctx.set_prop(AppConstants.TRAIN_SHAREABLE, task, private=True, sticky=False)
    engine.fire_event(AppEventType.BEFORE_TRAIN_TASK, fl_ctx)
    (reason,) = said
    assert f"a value of 70000 in tensor {name!r}" in reason
    assert "--set wire=float32" in reason
    assert plan_of_task(task).wire == "float16"


# --- one message --------------------------------------------------------------------------------------


def test_attaching_twice_changes_nothing_more_and_leaves_the_servers_model(tiny, weights):
    plan, model = RunPlan(**tiny_plan(wire="float16").to_dict()), dict(weights)
    task = DXO(data_kind=DataKind.WEIGHTS, data=model).to_shareable()
    plan.attach(task)
    once = dict(from_shareable(task).data)
    plan.attach(task)
    assert all(from_shareable(task).data[name] is value for name, value in once.items())
    assert all(model[name] is value for name, value in weights.items())
    found = weights_of_task(on_the_wire(task))
    assert all(np.array_equal(found[n].numpy(), value) for n, value in as_received(weights, "float16").items())


@pytest.mark.parametrize(
    "content", [Shareable(), DXO(data_kind=DataKind.METRICS, data={"a": {"b": 1.0}}).to_shareable()]
)
def test_messages_without_weights_stay_as_they_are(content):
    before = dict(content)
    narrow(content, "float16")
    assert content == before


def test_bytes_are_counted_wherever_they_are():
    message = Shareable()
    message[MODELS] = {"final": {"a": np.zeros(3, np.float16)}, "best": {"b": np.zeros((2, 2), np.float32)}}
    message["states"] = [{"absmax": np.zeros(1, np.float32), "blocksize": 64, "name": "fp4"}]
    assert message_bytes(message) == 6 + 16 + 4


def half_update(weights, fl_ctx, guard: bool = True) -> Shareable:
    message = DXO(data_kind=DataKind.WEIGHT_DIFF, data=dict(weights)).to_shareable()
    dxo = from_shareable(message)
    dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 2)
    dxo.set_meta_prop(METRICS, NUMBERS)
    dxo.update_shareable(message)
    narrow(message, "float16")
    return UpdateGuard().process(message, fl_ctx) if guard else message


@pytest.fixture
def fl_ctx(tiny, weights, tmp_path):
    fl_ctx = context(Engine({"plan": RunPlan(**tiny_plan(wire="float16").to_dict())}), "server", tmp_path)
    fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(dict(weights), {}), private=True, sticky=True)
    fl_ctx.set_peer_context(peer("north"))
    return fl_ctx


def test_the_guard_hands_single_precision_to_the_aggregator(fl_ctx, weights):
    found = from_shareable(half_update(weights, fl_ctx)).data
    assert kinds(found) == {np.dtype(np.float32)}
    assert all(np.array_equal(found[n], value) for n, value in as_received(weights, "float16").items())


def test_the_sites_privacy_filters_take_halves(fl_ctx, weights):
    message = half_update(weights, fl_ctx, guard=False)
    for one in (KnownContent(), NamedParts(parts=["*"])):
        message = one.process(message, fl_ctx)
    assert kinds(from_shareable(message).data) == {np.dtype(np.float16)}


@pytest.mark.parametrize("noise", [PercentilePrivacy(percentile=10, gamma=0.01), SVTPrivacy(fraction=0.5)])
def test_filters_that_clip_or_add_noise_take_halves_and_the_guard_takes_what_they_leave(fl_ctx, weights, noise):
    message = noise.process(half_update(weights, fl_ctx, guard=False), fl_ctx)
    size = message_bytes(message)
    found = from_shareable(UpdateGuard().process(on_the_wire(message), fl_ctx)).data
    assert all(np.isfinite(value).all() and value.dtype != np.float16 for value in found.values())
    assert size == payload_bytes(from_shareable(message).data)


def test_a_site_counts_a_task_before_the_jobs_filters_unpack_it(tiny, weights, tmp_path):
    learner = SiteLearner(FedAvg())
    fl_ctx = context(Engine({"learner": learner}), "liver", tmp_path)
    packed, plain = Shareable(), DXO(data_kind=DataKind.WEIGHTS, data=dict(weights)).to_shareable()
    packed["codes"] = np.zeros(5, np.uint8)
    assert learner._costs(plain) == {"bytes_down": payload_bytes(weights)}
    fl_ctx.set_prop(FLContextKey.TASK_DATA, packed, private=True, sticky=False)
    learner.handle_event(EventType.BEFORE_TASK_DATA_FILTER, fl_ctx)
    assert learner._costs(plain) == {"bytes_down": 5}


def test_the_server_counts_an_update_before_the_jobs_filters_unpack_it(make_server, monkeypatch):
    """As FLARE's dequantiser does: what reaches the recorder is larger than what has come."""
    server = make_server(None, FedAvg(), wire="float16")
    filters = InProcess._filtered

    def unpacked(self, site, task_name, answer, fl_ctx):
        found = filters(self, site, task_name, answer, fl_ctx)
        if task_name == AppConstants.TASK_TRAIN:
            assert kinds(from_shareable(found).data) == {np.dtype(np.float32)}
        return found

    monkeypatch.setattr(InProcess, "_filtered", unpacked)
    server.run(evaluate=False)
    weights, _ = load_model(server.app / GLOBAL_MODEL)
    updates = [line for line in server.progress() if line["event"] == "update"]
    assert (
        {line["bytes_up"] for line in updates}
        == {line["bytes_down"] for line in updates}
        == {payload_bytes(weights) // 2}
    )
