"""The server's state between rounds: all of it or a clear error."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.errors import ConfigError
from fedpartial.server.run_history import RunHistory
from fedpartial.server.run_state import RunState, load_run_state, save_run_state
from fedpartial.training.model_file import model_info, save_model
from fedpartial.training.plan import Plan

PLAN = Plan(job="fedavg", preset="phantom", num_rounds=3, local_steps=2)
WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([np.float32(0.1)])}


def state(**changes) -> RunState:
    history = RunHistory(3)
    history.start_round(0)
    values = {"plan": PLAN.to_dict(), "rounds": 1, "weights": WEIGHTS, "velocity": {"b": WEIGHTS["b"] * 2}}
    return RunState(**{**values, "history": history.to_dict(), **changes})


def test_what_is_written_is_read(tmp_path):
    given = state()
    save_run_state(tmp_path / "s", given)
    read = load_run_state(tmp_path / "s")
    assert (read.plan, read.rounds, read.history) == (given.plan, given.rounds, given.history)
    for kind in ("weights", "velocity"):
        ours, theirs = getattr(read, kind), getattr(given, kind)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) and ours[name].dtype == np.float32 for name in ours)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_model_file_is_no_run_state(tmp_path):
    save_model(tmp_path / "m", WEIGHTS, model_info(PLAN, 1))
    with pytest.raises(ConfigError, match=r"run_state\.safetensors"):
        load_run_state(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"{}"])
def test_anything_else_is_no_run_state(tmp_path, content):
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ConfigError, match="has finished at least one round"):
        load_run_state(tmp_path / "s")


def test_history_continues(tmp_path):
    first = RunHistory(3)
    first.start_round(0)
    first.rounds[0].sites["liver"] = {"val_dice": {}, "loss": 1.0}
    first.best_dice, first.best_round = 0.5, 1
    second = RunHistory.from_dict(3, first.to_dict())
    assert second.to_dict() == first.to_dict()
    assert not second.is_best(0.4, 2)
    assert second.remaining_seconds(1) is None, "the pace of the first process is not known"
