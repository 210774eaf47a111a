"""The global model: where it starts, and what is written after every round."""

from __future__ import annotations

import numpy as np
import pytest
from in_process import Engine, context
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.flare.final_evaluation import FinalEvaluation
from fedpartial.flare.persistor import GLOBAL_MODEL, GlobalModelFile
from fedpartial.flare.plan import RunPlan
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.run_state import RUN_STATE
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
    started = GlobalModelFile(start_from=GLOBAL_MODEL).load(fl_ctx)
    assert equal(started[ModelLearnableKey.WEIGHTS], weights)
    assert [p.name for p in path.parent.iterdir()] == [GLOBAL_MODEL], "no temporary file remains"


def test_a_missing_start_is_refused_without_a_word_of_the_servers_folders(fl_ctx, tmp_path):
    with pytest.raises(ConfigError, match="nowhere") as caught:
        GlobalModelFile(start_from="models/nowhere.safetensors").load(fl_ctx)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("way", ["absolute", "above", "by a detour", "through a link"])
def test_a_job_starts_from_a_file_of_its_own_and_learns_of_no_other(fl_ctx, weights, tmp_path, way, exists):
    """Another job's model, or whether there is one, is not for everybody who may submit."""
    (tmp_path / "app" / "sub").mkdir()
    (tmp_path / "app" / "link").symlink_to(tmp_path)
    if exists:
        (GlobalModelFile().write("secret", weights, 1, None, fl_ctx)).rename(tmp_path / "secret")
    given = {
        "absolute": str(tmp_path / "secret"),
        "above": "../secret",
        "by a detour": "sub/../../app/sub/../../secret",
        "through a link": "link/secret",
    }[way]
    with pytest.raises(ConfigError) as caught:
        GlobalModelFile(start_from=given).load(fl_ctx)
    assert caught.value.field == "persistor.start_from"
    assert str(caught.value).count(str(tmp_path)) == (way == "absolute"), "only what the job itself says"
    assert "No such file" not in str(caught.value)


def test_an_evaluation_without_a_model_names_no_folder(make_server):
    """A job of this workflow alone; FLARE turns the error into the panic that progress.jsonl holds."""
    server = make_server()
    server.run(evaluate=False)
    (server.app / GLOBAL_MODEL).unlink()
    server.engine.workflows = []
    evaluation = FinalEvaluation()
    evaluation.set_communicator(server.link)
    evaluation.initialize(server.fl_ctx)
    with pytest.raises(ConfigError, match=GLOBAL_MODEL) as caught:
        evaluation.control_flow(server.engine.signal, server.fl_ctx)
    assert str(server.root) not in str(caught.value)


def test_a_state_that_cannot_be_read_is_named_without_its_folder(fl_ctx, tmp_path):
    (tmp_path / "app" / RUN_STATE).write_bytes(b"nothing of ours")
    with pytest.raises(ConfigError, match=RUN_STATE) as caught:
        GlobalModelFile().finished_rounds(fl_ctx)
    assert str(tmp_path) not in str(caught.value)


def test_a_start_of_another_network_is_refused(tiny, fl_ctx, weights, tmp_path):
    GlobalModelFile().write("other.safetensors", {"w": np.zeros(3, np.float32)}, 1, None, fl_ctx)
    with pytest.raises(ConfigError, match="same preset"):
        GlobalModelFile(start_from="other.safetensors").load(fl_ctx)


def test_a_plan_component_is_required(tmp_path):
    with pytest.raises(TypeError, match="plan"):
        GlobalModelFile().load(context(Engine({}), "server", tmp_path))
