"""The aggregator of every averaging job: a mean that does not depend on the order of arrival.

FLARE's InTimeAccumulateWeightedAggregator sums in float32 in order of arrival, divides by zero steps and
is wrong for weights other than 1 (design notes, section 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.app_constant import AppConstants

from fedpartial.errors import ConfigError
from fedpartial.flare.plan import plan_of_server, site_name
from fedpartial.flare.weights import METRICS
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.label_weights import LabelWeights, label_weighted_mean
from fedpartial.training.reported import ANNOTATED

Weighting = Literal["uniform", "num_steps", "num_training"]


class SiteMean(Aggregator):
    """Keeps one update per site and round and averages them when the round ends.

    Args:
        weighting: "uniform" (ConDistFL), by local steps, or by training cases (McMahan et al.: n_k / n).
        label_weights: {"annotated": 1.0, "other": 0.5} (Fed-MENU): the weights of sites with and without annotated
            cases of a class, for everything that belongs to the class; ``weighting`` stays for the rest.
        plan_id: the RunPlan component, which knows the classes; only asked with label_weights.
    """

    def __init__(
        self,
        weighting: Weighting = "uniform",
        label_weights: Mapping[str, float] | None = None,
        plan_id: str = "plan",
    ):
        super().__init__()
        if weighting not in get_args(Weighting):
            raise ConfigError(
                where="job",
                field="aggregator.weighting",
                got=weighting,
                expected=f"one of {', '.join(get_args(Weighting))}",
                remedy="The paper's is uniform.",
            )
        self.weighting, self.plan_id = weighting, plan_id
        self.label_weights = None if label_weights is None else LabelWeights.from_json(label_weights)
        self._updates: dict[str, dict[str, np.ndarray]] = {}
        self._weights: dict[str, float] = {}
        self._annotated: dict[str, Mapping[str, int]] = {}

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        site = site_name(fl_ctx.get_peer_context())
        if shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND) != fl_ctx.get_prop(AppConstants.CURRENT_ROUND):
            self.log_warning(fl_ctx, f"update from {site} belongs to another round and is left out")
            return False
        dxo = from_shareable(shareable)
        self._updates[site] = dxo.data
        self._weights[site] = self._weight(dxo)
        if self.label_weights is not None:
            self._annotated[site] = dxo.get_meta_prop(METRICS)[ANNOTATED]
        return True

    def _weight(self, dxo: DXO) -> float:
        if self.weighting == "num_training":
            return float(dxo.get_meta_prop(METRICS)["num_training"])
        return float(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)) if self.weighting == "num_steps" else 1.0

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        return DXO(data_kind=DataKind.WEIGHT_DIFF, data=self._mean(fl_ctx)).to_shareable()

    def _mean(self, fl_ctx: FLContext) -> dict[str, np.ndarray]:
        if self.label_weights is None:
            return weighted_mean(self._updates, self._weights)
        space = plan_of_server(fl_ctx, self.plan_id).plan.config.label_space
        return label_weighted_mean(self._updates, self._weights, self.label_weights, self._annotated, space)

    def reset(self, fl_ctx: FLContext) -> None:
        for kept in (self._updates, self._weights, self._annotated):
            kept.clear()
