"""The aggregator of every averaging job: a mean that does not depend on the order of arrival.

An update is added when it arrives and not kept, so the memory does not grow with the number of sites. FLARE's
InTimeAccumulateWeightedAggregator sums in float32 in order of arrival, divides by zero steps and is wrong for weights
other than 1 (design notes, section 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.app_constant import AppConstants

from fedpartial.errors import ConfigError
from fedpartial.flare.plan import plan_of_server, site_name
from fedpartial.flare.weights import METRICS
from fedpartial.server.aggregation import RunningMean, Weigh, one_weight
from fedpartial.server.label_weights import LabelWeights
from fedpartial.training.reported import ANNOTATED

Weighting = Literal["uniform", "num_steps", "num_training"]


class SiteMean(Aggregator):
    """Takes one update per site and round, the first, and gives their mean when the round ends.

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
        self._mean = RunningMean()

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        site = site_name(fl_ctx.get_peer_context())
        if shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND) != fl_ctx.get_prop(AppConstants.CURRENT_ROUND):
            self.log_warning(fl_ctx, f"update from {site} belongs to another round and is left out")
            return False
        if site in self._mean.sites:  # a round is a function of files: it would be the same update again
            self.log_warning(fl_ctx, f"a second update from {site} in one round is left out")
            return False
        dxo = from_shareable(shareable)
        self._mean.add(site, dxo.data, self._weigh(dxo, fl_ctx))
        return True

    def _weigh(self, dxo: DXO, fl_ctx: FLContext) -> Weigh:
        weight = self._weight(dxo)
        if self.label_weights is None:
            return one_weight(weight)
        space = plan_of_server(fl_ctx, self.plan_id).plan.config.label_space
        return self.label_weights.weigh(weight, dxo.get_meta_prop(METRICS)[ANNOTATED], space)

    def _weight(self, dxo: DXO) -> float:
        if self.weighting == "num_training":
            return float(dxo.get_meta_prop(METRICS)["num_training"])
        return float(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)) if self.weighting == "num_steps" else 1.0

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """The mean; the sums are gone then."""
        return DXO(data_kind=DataKind.WEIGHT_DIFF, data=self._mean.take()).to_shareable()

    def reset(self, fl_ctx: FLContext) -> None:
        self._mean = RunningMean()
