"""The aggregator of every averaging job: a mean that does not depend on the order of arrival.

FLARE's InTimeAccumulateWeightedAggregator sums in float32 in order of arrival, divides by zero steps and
is wrong for weights other than 1 (design notes, section 8).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.app_constant import AppConstants

from fedpartial.errors import ConfigError
from fedpartial.flare.plan import site_name
from fedpartial.flare.weights import METRICS
from fedpartial.server.aggregation import weighted_mean

Weighting = Literal["uniform", "num_steps", "num_training"]


class SiteMean(Aggregator):
    """Keeps one update per site and round and averages them when the round ends.

    Args:
        weighting: "uniform" (ConDistFL), by local steps, or by training cases (McMahan et al.: n_k / n).
    """

    def __init__(self, weighting: Weighting = "uniform"):
        super().__init__()
        if weighting not in get_args(Weighting):
            raise ConfigError(
                where="job",
                field="aggregator.weighting",
                got=weighting,
                expected=f"one of {', '.join(get_args(Weighting))}",
                remedy="The paper's is uniform.",
            )
        self.weighting = weighting
        self._updates: dict[str, dict[str, np.ndarray]] = {}
        self._weights: dict[str, float] = {}

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        site = site_name(fl_ctx.get_peer_context())
        if shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND) != fl_ctx.get_prop(AppConstants.CURRENT_ROUND):
            self.log_warning(fl_ctx, f"update from {site} belongs to another round and is left out")
            return False
        dxo = from_shareable(shareable)
        self._updates[site] = dxo.data
        self._weights[site] = self._weight(dxo)
        return True

    def _weight(self, dxo: DXO) -> float:
        if self.weighting == "num_training":
            return float(dxo.get_meta_prop(METRICS)["num_training"])
        return float(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)) if self.weighting == "num_steps" else 1.0

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        mean = weighted_mean(self._updates, self._weights)
        return DXO(data_kind=DataKind.WEIGHT_DIFF, data=mean).to_shareable()

    def reset(self, fl_ctx: FLContext) -> None:
        self._updates.clear()
        self._weights.clear()
