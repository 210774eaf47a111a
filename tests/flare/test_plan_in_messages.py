"""The plan travels with every task."""

from __future__ import annotations

import pytest
from in_process import Engine, context, on_the_wire
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from federation import tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.flare.plan import RunPlan, plan_of_server, plan_of_task


def test_a_train_task_gets_the_plan_before_it_is_sent(tiny, tmp_path):
    component = RunPlan(**tiny_plan().to_dict())
    fl_ctx = context(Engine({"plan": component}), "server", tmp_path)
    task = Shareable()
    fl_ctx.set_prop(AppConstants.TRAIN_SHAREABLE, task, private=True, sticky=False)
    component.handle_event(AppEventType.ROUND_STARTED, fl_ctx)
    with pytest.raises(ConfigError):
        plan_of_task(task)
    component.handle_event(AppEventType.BEFORE_TRAIN_TASK, fl_ctx)
    assert plan_of_task(on_the_wire(task)) == component.plan == tiny_plan()
    assert plan_of_server(fl_ctx, "plan") is component


def test_a_wrong_job_fails_when_it_is_built():
    with pytest.raises(ConfigError, match="num_rounds"):
        RunPlan(job="x", preset="phantom", num_rounds=None, local_steps=1, seed=0)
