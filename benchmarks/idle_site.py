"""A site that trains nothing, for benchmarks of what is around the training: it answers every round at once.

The answer is a correct update of the size of the model it got, with every number that a real site reports, so that the
server does all of its work. It imports neither torch nor MONAI: what is measured is FLARE's part and the server's.
"""

from __future__ import annotations

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.learner_spec import Learner
from nvflare.app_common.app_constant import AppConstants

METRICS = "fedpartial_metrics"
SHARE = np.float32(1e-3)
"""Of each weight, as its update: not zero, or the server would end a run in which nothing moves."""


class IdleSite(Learner):
    """A thousandth of the global model as update; no validation."""

    def initialize(self, parts: dict, fl_ctx: FLContext) -> None:
        """Nothing to prepare."""

    def finalize(self, fl_ctx: FLContext) -> None:
        """Nothing to keep."""

    def abort(self, fl_ctx: FLContext) -> None:
        """Nothing to stop."""

    def validate(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        return make_reply(ReturnCode.EMPTY_RESULT)

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        weights = from_shareable(data).data
        number = data.get_header(AppConstants.CURRENT_ROUND)
        update = {name: value * SHARE for name, value in weights.items()}
        dxo = DXO(data_kind=DataKind.WEIGHT_DIFF, data=update)
        dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
        dxo.set_meta_prop(METRICS, metrics(weights, number))
        return dxo.to_shareable()


def metrics(weights: dict[str, np.ndarray], number: int) -> dict:
    """What a site reports with the update of round ``number`` (from 0)."""
    return {
        "loss": 1.0,
        "seconds": 0.0,
        "optimizer_round": number - 1,
        "bytes_down": sum(value.nbytes for value in weights.values()),
        "tensors_taken": len(weights),
        "setup_seconds": 0.0,
        "num_training": 1,
        "device": "cpu",
        "precision": "float32",
        "source": "phantom",
        "val_dice": {},
        "annotated": {"liver": 1},
    }
