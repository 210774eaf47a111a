"""The guard before the aggregator, with FLARE's contexts and messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from in_process import Engine, context, peer
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from federation import tiny_plan
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.update_guard import UpdateGuard
from fedpartial.flare.weights import update_message
from fedpartial.server.metrics_check import MetricsRefused
from fedpartial.server.update_check import UpdateRefused

METRICS = {
    "loss": 0.5,
    "seconds": 2.0,
    "optimizer_round": -1,
    "bytes_down": 12,
    "tensors_taken": 2,
    "val_dice": {"liver": 0.5},
    "device": "cpu",
    "precision": "float32",
    "source": "phantom",
    "setup_seconds": 1.0,
    "num_training": 2,
    "annotated": {"liver": 1},
}


@pytest.fixture
def fl_ctx(tiny, weights, tmp_path):
    """The server handles a message of site "north"."""
    fl_ctx = context(Engine({"plan": RunPlan(**tiny_plan().to_dict())}), "server", tmp_path)
    fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(dict(weights), {}), private=True, sticky=True)
    fl_ctx.set_peer_context(peer("north"))
    return fl_ctx


def message(weights, num_steps=2, metrics: object = METRICS, **changes) -> Shareable:
    update = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    shareable = update_message(update, num_steps, metrics)
    from_shareable(shareable).data.update(changes)
    return shareable


def test_a_good_update_passes_unchanged(fl_ctx, weights):
    shareable = message(weights)
    assert UpdateGuard().process(shareable, fl_ctx) is shareable
    assert all(np.array_equal(from_shareable(shareable).data[name], weights[name]) for name in weights)


@pytest.mark.parametrize("code", [ReturnCode.EXECUTION_EXCEPTION, ReturnCode.TASK_ABORTED, ReturnCode.EMPTY_RESULT])
def test_an_error_reply_passes(fl_ctx, code):
    reply = make_reply(code)
    assert UpdateGuard().process(reply, fl_ctx) is reply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: np.full_like(v, np.nan), "NaN"),
        (lambda v: v[:1], "shape"),
        (lambda v: v.astype(np.int64), "int64"),
        (lambda v: None, "NoneType"),
    ],
    ids=["nan", "shape", "dtype", "none"],
)
def test_a_bad_tensor_is_refused_with_site_and_name(fl_ctx, weights, change, reason, caplog):
    name = list(weights)[-2]
    with pytest.raises(UpdateRefused, match="north") as caught:
        UpdateGuard().process(message(weights, **{name: change(weights[name])}), fl_ctx)
    assert name in str(caught.value)
    assert reason in str(caught.value)
    assert str(caught.value) in caplog.text, "the server's log says it"


def test_a_private_tensor_ends_the_run(fl_ctx, weights):
    """A site that sends its head breaks the job's promise; no other site may make up for it."""
    plan = fl_ctx.get_engine().get_component("plan").plan
    object.__setattr__(plan, "exchange", "trunk")
    head = "heads.liver.conv.weight"
    with pytest.raises(UpdateRefused, match=f"a private part moved: site north sends 1 .*'{head}'"):
        UpdateGuard().process(message(weights, **{head: np.zeros(1, np.float32)}), fl_ctx)
    assert fl_ctx.get_engine().signal.triggered


@pytest.mark.parametrize("name", ["extra", "heads.liver.conv.weight"])
def test_an_unknown_tensor_where_nothing_is_private_is_a_failed_contribution(fl_ctx, weights, name):
    with pytest.raises(UpdateRefused, match="unknown"):
        UpdateGuard().process(message(weights, **{name: np.zeros(1, np.float32)}), fl_ctx)
    assert not fl_ctx.get_engine().signal.triggered


@pytest.mark.parametrize("num_steps", [0, -3, None, True, 2.0])
def test_wrong_steps_are_refused(fl_ctx, weights, num_steps):
    with pytest.raises(UpdateRefused, match="local steps"):
        UpdateGuard().process(message(weights, num_steps), fl_ctx)


def test_whole_weights_are_not_an_update(fl_ctx, weights):
    """A site that sends its model would otherwise add it to the global one."""
    dxo = DXO(data_kind=DataKind.WEIGHTS, data=dict(weights), meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 2})
    with pytest.raises(UpdateRefused, match="north"):
        UpdateGuard().process(dxo.to_shareable(), fl_ctx)


def test_a_message_without_tensors_is_refused(fl_ctx):
    with pytest.raises(ValueError, match="DXO"):
        UpdateGuard().process(Shareable(), fl_ctx)


@pytest.mark.parametrize(
    "metrics", [{}, None, {**METRICS, "val_dice": {"liver": float("nan")}}, {**METRICS, "loss": "0"}]
)
def test_metrics_that_cannot_be_used_are_refused_with_the_site(fl_ctx, weights, metrics, caplog):
    with pytest.raises(MetricsRefused, match="update from north refused") as caught:
        UpdateGuard().process(message(weights, metrics=metrics), fl_ctx)
    assert str(caught.value) in caplog.text, "the server's log says it"
