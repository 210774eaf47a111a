"""Standalone training as a federation without aggregation: every site keeps its own model from round to round."""

from __future__ import annotations

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator


class NoAggregation(FullModelShareableGenerator):
    """Leaves the common starting weights as they are; sites with ``start_from`` "local" do not look at them again."""

    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> ModelLearnable:
        return fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
