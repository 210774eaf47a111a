"""The global model: where it starts, and what is written after every round."""

from __future__ import annotations

import numpy as np
import pytest
from in_process import Engine, context
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.flare.persistor import GLOBAL_MODEL, GlobalModelFile
from fedpartial.flare.plan import RunPlan
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.dynunet import build_network
from fedpartial.training.model_file import load_model


@pytest.fixture
def fl_ctx(tiny, tmp_path):
    return context(Engine({"plan": RunPlan(**tiny_plan().to_dict())}), "server", tmp_path)


def equal(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_run_starts_from_the_seed(fl_ctx):
    model = GlobalModelFile().load(fl_ctx)
    expected = canonical_state(build_network(TINY, seed=tiny_plan().seed))
    assert equal(model[ModelLearnableKey.WEIGHTS], {n: t.numpy() for n, t in expected.items()})


def test_a_round_is_saved_with_its_origin_and_can_be_started_from(fl_ctx, weights, tmp_path):
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 4, private=True, sticky=True)
    GlobalModelFile().save(make_model_learnable(dict(weights), {}), fl_ctx)
    path = tmp_path / "app" / GLOBAL_MODEL
    found, info = load_model(path)
    assert equal(found, weights)
    assert (info.round_number, info.val_dice) == (5, None)
    started = GlobalModelFile(start_from=str(path)).load(fl_ctx)
    assert equal(started[ModelLearnableKey.WEIGHTS], weights)
    assert [p.name for p in path.parent.iterdir()] == [GLOBAL_MODEL], "no temporary file remains"


def test_a_missing_start_is_refused(fl_ctx, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        GlobalModelFile(start_from=str(tmp_path / "nowhere.safetensors")).load(fl_ctx)


def test_a_start_of_another_network_is_refused(tiny, fl_ctx, weights, tmp_path):
    GlobalModelFile().write("other.safetensors", {"w": np.zeros(3, np.float32)}, 1, None, fl_ctx)
    with pytest.raises(ConfigError, match="same preset"):
        GlobalModelFile(start_from=str(tmp_path / "app" / "other.safetensors")).load(fl_ctx)


def test_a_plan_component_is_required(tmp_path):
    with pytest.raises(TypeError, match="plan"):
        GlobalModelFile().load(context(Engine({}), "server", tmp_path))
