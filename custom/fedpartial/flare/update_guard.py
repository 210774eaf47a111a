"""Server filter on train results: a bad update never reaches the aggregator."""

from __future__ import annotations

from nvflare.apis.dxo import MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.plan import site_name
from fedpartial.server.update_check import UpdateRefused, check_update


class UpdateGuard(Filter):
    """Compares an update with the global model; FLARE turns the error into a failed contribution."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        site = site_name(fl_ctx.get_peer_context())
        reference = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS]
        dxo = from_shareable(shareable)
        try:
            check_update(site, dxo.data, reference, dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND))
        except UpdateRefused as refusal:
            self.log_error(fl_ctx, str(refusal))
            raise
        return shareable
