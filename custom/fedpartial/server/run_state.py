"""What the server needs to continue a run after its last finished round, in one file.

One file, because a model of round r with the server optimiser of round r - 1 would train on without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from fedpartial.errors import ConfigError
from fedpartial.training.checkpoint import read_tensors, write_tensors
from fedpartial.training.plan import Plan

RUN_STATE = "run_state.safetensors"
SAME = (
    "preset",
    "num_rounds",
    "local_steps",
    "seed",
    "merge_lesions",
    "exchange",
    "finetune_steps",
    "pretrain_rounds",
    "pretrain_sites",
)
"""What a continued run must have in common with the run it continues: the schedules follow from it."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """``rounds`` counts finished rounds; ``weights`` and ``velocity`` are canonical states."""

    plan: dict
    rounds: int
    weights: dict[str, np.ndarray]
    velocity: dict[str, np.ndarray]
    history: dict

    def check_continues(self, plan: Plan, where: str) -> None:
        """Raise ConfigError unless ``plan`` is the same run. With all rounds finished, only the evaluation is left."""
        for field in SAME:
            if self.plan[field] != (value := plan.to_dict()[field]):
                raise ConfigError(
                    where=where,
                    field=field,
                    got=value,
                    expected=f"{self.plan[field]!r}, as in the run that is continued",
                    remedy="Learning rates and loss weights follow from it: continue with the same value.",
                )


def save_run_state(path: Path, state: RunState) -> None:
    """Write atomically: a crash leaves the state of the round before."""
    tensors = {
        f"{kind}/{name}": torch.from_numpy(np.asarray(value, order="C"))
        for kind, arrays in (("weights", state.weights), ("velocity", state.velocity))
        for name, value in arrays.items()
    }
    values = {"plan": state.plan, "rounds": state.rounds, "history": state.history}
    write_tensors(path, tensors, {"fedpartial_run": json.dumps(values)})


def load_run_state(path: Path) -> RunState:
    """The state in a file; ConfigError for anything that ``save_run_state`` did not write."""
    try:
        tensors, metadata = read_tensors(path)
        values = json.loads(metadata["fedpartial_run"])
        values["plan"] = Plan.from_stored(values["plan"]).to_dict()
        return RunState(**values, weights=_part(tensors, "weights"), velocity=_part(tensors, "velocity"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            where=str(path),
            field="(file)",
            got=f"{type(error).__name__}: {error}",
            expected=f"a {RUN_STATE} that a server of this project has written",
            remedy="Give the folder of a run that has finished at least one round.",
        ) from error


def _part(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{kind}/"): tensor.numpy() for name, tensor in tensors.items() if name.startswith(f"{kind}/")
    }
