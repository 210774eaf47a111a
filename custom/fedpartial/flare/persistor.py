"""Global models in the server's job folder, as safetensors with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.plan import job_root, plan_of_server
from fedpartial.flare.weights import to_arrays
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.dynunet import build_network
from fedpartial.training.model_file import check_fits, load_model, model_info, save_model

GLOBAL_MODEL = "global_model.safetensors"
BEST_MODEL = "best_global_model.safetensors"


class GlobalModelFile(ModelPersistor):
    """Starts from the preset's seeded network, or from a model file; saves every round.

    FLARE's PTFileModelPersistor writes pickles and keeps both names of an aliased tensor.

    Args:
        start_from: path of a model to start from, in the server's own file system; empty for none.
        plan_id: the RunPlan component.
    """

    def __init__(self, start_from: str = "", plan_id: str = "plan"):
        super().__init__()
        self.start_from, self.plan_id = start_from, plan_id

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        weights = to_arrays(canonical_state(build_network(plan.config, seed=plan.seed)))
        if self.start_from:
            start, _ = load_model(Path(self.start_from))
            check_fits(Path(self.start_from), start, weights)
            weights = start
        return make_model_learnable(weights, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        rounds = fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1
        self.write(GLOBAL_MODEL, model[ModelLearnableKey.WEIGHTS], rounds, None, fl_ctx)

    def write(
        self, name: str, weights: Mapping[str, np.ndarray], rounds: int, val_dice: float | None, fl_ctx: FLContext
    ) -> Path:
        """Write one model file of this job atomically."""
        path = Path(job_root(fl_ctx)) / name
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        save_model(path, weights, model_info(plan, rounds, val_dice))
        return path
