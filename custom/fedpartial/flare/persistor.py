"""Global models and the state of the run in the server's job folder, as safetensors with their origin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.file_utils import resolve_path_under_root

from fedpartial.errors import ConfigError, renamed
from fedpartial.flare.fedopt import FedOptGenerator
from fedpartial.flare.plan import job_root, plan_of_server
from fedpartial.flare.standalone import NoAggregation
from fedpartial.networks.universal import universal_classes
from fedpartial.server.heads import initial_shared
from fedpartial.server.run_history import RunHistory
from fedpartial.server.run_state import RUN_STATE, RunState, load_run_state, save_run_state
from fedpartial.training.model_file import check_fits, load_model, model_info, save_model

Loaded = TypeVar("Loaded")
GLOBAL_MODEL = "global_model.safetensors"
BEST_MODEL = "best_global_model.safetensors"
TRUNK_MODEL = "trunk.safetensors"
"""What is shared of networks with private heads; HeadCollection makes the global model of it."""


def read_own(load: Callable[[Path], Loaded], path: Path) -> Loaded:
    """What is in a file of the job; an error, which the submitter may read, names no folder of the server."""
    try:
        return load(path)
    except ConfigError as error:
        raise renamed(error, f"{path.parent}/", "") from None


class GlobalModelFile(ModelPersistor):
    """Starts from the preset's seeded network, from a model file, or where an interrupted run ended.

    A job whose server app holds a run_state.safetensors (``fedpartial resume`` makes such jobs) continues it.
    FLARE's PTFileModelPersistor writes pickles and keeps both names of an aliased tensor.

    Args:
        start_from: a model to start from, a file of the job's own server app; empty for none. A job without code
            could otherwise read what it likes at the server.
        plan_id: the RunPlan component.
        generator_id: the shareable generator; the velocity of a FedOptGenerator belongs to the run's state.
    """

    def __init__(self, start_from: str = "", plan_id: str = "plan", generator_id: str = "shareable_generator"):
        super().__init__()
        self.start_from, self.plan_id, self.generator_id = start_from, plan_id, generator_id
        self._resumed: RunState | None = None
        self._looked = False
        self._start_annotated: Collection[str] | None = ()
        self.history: RunHistory | None = None  # the recorder's

    def resumed(self, fl_ctx: FLContext) -> RunState | None:
        """The state this job started with, or None; ConfigError when it does not fit the job."""
        if not self._looked:
            path = Path(job_root(fl_ctx)) / RUN_STATE
            if path.exists():
                state = read_own(load_run_state, path)
                state.check_continues(plan_of_server(fl_ctx, self.plan_id).plan, where=RUN_STATE)
                self._resumed = state
            self._looked = True
        return self._resumed

    def finished_rounds(self, fl_ctx: FLContext) -> int:
        state = self.resumed(fl_ctx)
        return state.rounds if state else 0

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        weights = initial_shared(plan)
        if state := self.resumed(fl_ctx):
            check_fits(Path(RUN_STATE), state.weights, weights)
            weights = state.weights
            if not self.standalone(fl_ctx):
                self.write(self._shared_file(fl_ctx), weights, state.rounds, None, fl_ctx)
            self.log_info(fl_ctx, f"continues after round {state.rounds} of {plan.num_rounds}")
        elif self.start_from:
            start, info = read_own(load_model, self._start_file(fl_ctx))
            self._start_annotated = info.annotated
            if plan.private_heads:  # of a model with other heads the trunk is enough
                start = {name: value for name, value in start.items() if name in weights}
            check_fits(Path(self.start_from), start, weights)
            weights = start
        return make_model_learnable(weights, {})

    def _start_file(self, fl_ctx: FLContext) -> Path:
        try:
            if ".." in Path(self.start_from).parts:
                raise ValueError("..")
            return Path(resolve_path_under_root(job_root(fl_ctx), self.start_from))
        except (ValueError, TypeError):
            raise ConfigError(
                where="config_fed_server.json",
                field="persistor.start_from",
                got=self.start_from,
                expected="the name of a file in the job's own server app",
                remedy="Put the model into the job's app folder.",
            ) from None

    def standalone(self, fl_ctx: FLContext) -> bool:
        """Whether the sites keep their own models: then there is no global model to write."""
        return isinstance(fl_ctx.get_engine().get_component(self.generator_id), NoAggregation)

    def selects_rounds(self, fl_ctx: FLContext) -> bool:
        """Whether the model of an earlier round could be chosen: it needs heads that nobody has kept."""
        return not self.standalone(fl_ctx) and not plan_of_server(fl_ctx, self.plan_id).plan.private_heads

    def _shared_file(self, fl_ctx: FLContext) -> str:
        return TRUNK_MODEL if plan_of_server(fl_ctx, self.plan_id).plan.private_heads else GLOBAL_MODEL

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        if self.standalone(fl_ctx):
            return
        rounds = fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1
        self.write(self._shared_file(fl_ctx), model[ModelLearnableKey.WEIGHTS], rounds, None, fl_ctx)

    def save_run_state(self, history: RunHistory, fl_ctx: FLContext) -> None:
        """The state after a finished round; from it the run can be continued."""
        generator = fl_ctx.get_engine().get_component(self.generator_id)
        state = RunState(
            plan=plan_of_server(fl_ctx, self.plan_id).plan.to_dict(),
            rounds=fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1,
            weights=fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS],
            velocity=generator.velocity if isinstance(generator, FedOptGenerator) else {},
            history=history.to_dict(),
        )
        save_run_state(Path(job_root(fl_ctx)) / RUN_STATE, state)

    def write(
        self,
        name: str,
        weights: Mapping[str, np.ndarray],
        rounds: int,
        val_dice: float | None,
        fl_ctx: FLContext,
        site: str | None = None,
    ) -> Path:
        """Write one model file of this job atomically; ``site``: it is that site's own model."""
        path = Path(job_root(fl_ctx)) / name
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        classes, annotated = universal_classes(weights) or None, self.annotated(site)
        save_model(path, weights, model_info(plan, rounds, val_dice, classes=classes, annotated=annotated))
        return path

    def annotated(self, site: str | None = None) -> set[str] | None:
        """Classes that the model was taught, in this run and in what it started from; None where that is not known."""
        now = self.history.annotated(site) if self.history else None
        return None if now is None or self._start_annotated is None else now.union(self._start_annotated)
