"""``--start-from MODEL``: a run that starts from a trained model, which travels as a file of the job's server app."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from fedpartial.cli.job_folder import SERVER, Job, write_values
from fedpartial.errors import ConfigError
from fedpartial.training.model_file import check_fits, load_model, save_model
from fedpartial.training.plan import Plan

START_MODEL = "start_model.safetensors"
PERSISTOR = "fedpartial.flare.persistor.GlobalModelFile"


def with_start_model(job: Job, plan: Plan, model: Path | None) -> Job:
    """The job (a copy, which is changed) starting from ``model``; as it is for None, if it can start from anything.

    Of a model for a run with private heads only what is shared goes into the job: no site needs another's heads.
    ConfigError for a file that is no model, or whose tensors are not those of the run's network.
    """
    if model is None:
        _check_something_to_do(job, plan)
        return job
    from fedpartial.server.heads import initial_shared

    weights, info = load_model(model)
    expected = initial_shared(plan)
    if plan.private_heads:
        weights = {name: value for name, value in weights.items() if name in expected}
    check_fits(model, weights, expected)
    save_model(job.folder / job.app_of(SERVER) / START_MODEL, weights, info)
    changed = replace(job, server=_with_argument(job))
    write_values(changed)
    return changed


def _check_something_to_do(job: Job, plan: Plan) -> None:
    """Without rounds a run evaluates or adapts the model that it starts from; the server would stop without one."""
    if plan.num_rounds or any(persistor.get("args", {}).get("start_from") for persistor in _persistors(job.server)):
        return
    raise ConfigError(
        where=str(job.server_config),
        field="num_rounds",
        got=0,
        expected="a round at least, or a model to start from",
        remedy="Name one with --start-from MODEL, or train some rounds.",
    )


def _persistors(server: dict) -> list[dict]:
    return [c for c in server.get("components", []) if c.get("path") == PERSISTOR]


def _with_argument(job: Job) -> dict:
    server = copy.deepcopy(job.server)
    persistors = _persistors(server)
    if len(persistors) != 1:
        raise ConfigError(
            where=str(job.server_config),
            field="components",
            got=f"{len(persistors)} components {PERSISTOR}",
            expected="one, which starts from the model",
            remedy="Leave --start-from out, or add the component.",
        )
    persistors[0].setdefault("args", {})["start_from"] = START_MODEL
    return server
