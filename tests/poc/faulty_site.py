"""Code of a job: site liver sends another faulty update in every round."""

from __future__ import annotations

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.learner import SiteLearner

FAULTY = "liver"
TENSOR = "bottleneck.conv1.conv.weight"
EXTRA = "bottleneck.conv9.conv.weight"
NAN, SHAPE, MISSING, UNKNOWN = range(4)


class FaultySite(SiteLearner):
    """Trains like every site; at one of them the update is spoiled afterwards."""

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        reply = super().train(data, fl_ctx, abort_signal)
        if self.site != FAULTY:
            return reply
        dxo = from_shareable(reply)
        spoil(dxo.data, data.get_header(AppConstants.CURRENT_ROUND))
        return dxo.update_shareable(reply)


def spoil(update: dict[str, np.ndarray], kind: int) -> None:
    """One NaN, one axis less, a tensor that is not there, or one that should not be there."""
    if kind == NAN:
        update[TENSOR] = update[TENSOR].copy()
        update[TENSOR].flat[0] = np.nan
    elif kind == SHAPE:
        update[TENSOR] = update[TENSOR][0]
    elif kind == MISSING:
        del update[TENSOR]
    else:
        update[EXTRA] = update[TENSOR]
