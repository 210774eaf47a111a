"""FedOpt between FLARE's aggregator and global model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from in_process import Engine, context
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from federation import tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.flare.fedopt import FedOptGenerator
from fedpartial.flare.plan import RunPlan

EXPECTED = json.loads((Path(__file__).parents[1] / "vectors.json").read_text(encoding="utf-8"))
POSITIONS = EXPECTED["fedopt_constant_update_0.1"]


@pytest.fixture
def fl_ctx(tiny, tmp_path):
    plan = RunPlan(**tiny_plan(num_rounds=120).to_dict())
    return context(Engine({"plan": plan}), "server", tmp_path)


def walk(generator, fl_ctx, weights, rounds) -> list[dict]:
    """Global weights after each round of the constant update 0.1."""
    model = make_model_learnable({n: np.zeros_like(v) for n, v in weights.items()}, {})
    positions = []
    for number in range(rounds):
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, model, private=True, sticky=True)
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=True)
        update = {n: np.full_like(v, 0.1) for n, v in weights.items()}
        mean = DXO(data_kind=DataKind.WEIGHT_DIFF, data=update).to_shareable()
        model = generator.shareable_to_learnable(mean, fl_ctx)
        positions.append(dict(model[ModelLearnableKey.WEIGHTS]))
    return positions


def test_three_rounds_follow_the_closed_form_on_every_tensor(fl_ctx, weights):
    found = walk(FedOptGenerator(), fl_ctx, weights, 3)
    for position, expected in zip(found, POSITIONS[:3], strict=True):
        assert list(position) == list(weights)
        for name, value in position.items():
            np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
            assert (value.dtype, value.shape) == (np.float32, weights[name].shape)


def test_its_limit_is_plain_addition(fl_ctx, weights):
    found = walk(FedOptGenerator(lr=1.0, final_lr=1.0, momentum=0.0), fl_ctx, weights, 2)
    assert all(np.array_equal(value, np.full_like(value, np.float32(0.1)) * 2) for value in found[1].values())


def test_the_model_that_is_sent_is_the_global_model(fl_ctx, weights):
    task = FedOptGenerator().learnable_to_shareable(make_model_learnable(dict(weights), {}), fl_ctx)
    assert all(np.array_equal(from_shareable(task).data[name], weights[name]) for name in weights)


def test_impossible_values_are_refused():
    with pytest.raises(ConfigError):
        FedOptGenerator(momentum=1.0)
