"""FedOpt between aggregator and global model: the server optimiser acts on every tensor."""

from __future__ import annotations

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

from fedpartial.flare.plan import plan_of_server
from fedpartial.server.fed_optimizer import ServerSGD


class FedOptGenerator(FullModelShareableGenerator):
    """Replaces the mean update by the server optimiser's step before it is added to the global model."""

    def __init__(
        self,
        lr: float = 1.0,
        final_lr: float = 0.9,
        momentum: float = 0.6,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
    ):
        super().__init__()
        self.optimizer = ServerSGD(lr=lr, final_lr=final_lr, momentum=momentum)
        self.plan_id, self.persistor_id = plan_id, persistor_id
        self._velocity: dict[str, np.ndarray] | None = None

    @property
    def velocity(self) -> dict[str, np.ndarray]:
        """The server optimiser's momentum after the latest round."""
        return self._velocity or {}

    def _start(self, fl_ctx: FLContext) -> dict[str, np.ndarray]:
        """The velocity of the run that this one continues, or none."""
        persistor = fl_ctx.get_engine().get_component(self.persistor_id)
        state = persistor.resumed(fl_ctx) if hasattr(persistor, "resumed") else None
        return state.velocity if state else {}

    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> ModelLearnable:
        dxo = from_shareable(shareable)
        if self._velocity is None:
            self._velocity = self._start(fl_ctx)
        self._velocity, dxo.data = self.optimizer.step(
            self._velocity,
            dxo.data,
            round_number=fl_ctx.get_prop(AppConstants.CURRENT_ROUND),
            num_rounds=plan_of_server(fl_ctx, self.plan_id).plan.num_rounds,
        )
        return super().shareable_to_learnable(dxo.to_shareable(), fl_ctx)
