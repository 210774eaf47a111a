"""Server filter on train results: a bad update never reaches the aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.plan import plan_of_server, site_name
from fedpartial.flare.recorder import RunRecorder
from fedpartial.flare.weights import METRICS
from fedpartial.networks.split import is_shared
from fedpartial.networks.wire import from_wire
from fedpartial.server.exchange_log import private_part
from fedpartial.server.metrics_check import MetricsRefused, check_update_metrics
from fedpartial.server.update_check import UpdateRefused, check_update


class UpdateGuard(Filter):
    """Compares an update with the global model and looks at its metrics; FLARE makes the error a failed contribution.

    What has come in half precision passes as float32, so that nothing behind it sums or multiplies halves.

    Args:
        recorder_id: the RunRecorder that is told which site was refused and why.
        plan_id: the RunPlan component, which knows the classes of the run.
    """

    def __init__(self, recorder_id: str = "recorder", plan_id: str = "plan"):
        super().__init__()
        self.recorder_id, self.plan_id = recorder_id, plan_id

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        site = site_name(fl_ctx.get_peer_context())
        reference = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS]
        dxo = from_shareable(shareable)
        self._end_if_private(site, dxo.data, fl_ctx)
        try:
            if dxo.data_kind != DataKind.WEIGHT_DIFF:
                raise UpdateRefused(f"update from {site} refused: got {dxo.data_kind}; expected {DataKind.WEIGHT_DIFF}")
            check_update(site, dxo.data, reference, dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND))
            classes = plan_of_server(fl_ctx, self.plan_id).plan.config.label_space.classes
            check_update_metrics(site, dxo.get_meta_prop(METRICS), classes)
        except (UpdateRefused, MetricsRefused) as refusal:
            self._tell(site, str(refusal), fl_ctx)
            raise
        dxo.data = from_wire(dxo.data)
        return dxo.update_shareable(shareable)

    def _end_if_private(self, site: str, update: Mapping, fl_ctx: FLContext) -> None:
        """A private tensor is no bad update of one site, but a job that breaks its promise: it ends the run."""
        exchange = plan_of_server(fl_ctx, self.plan_id).plan.exchange
        leak = private_part(f"site {site}", map(str, update), partial(is_shared, exchange=exchange))
        if leak:
            self.system_panic(leak, fl_ctx)
            raise UpdateRefused(leak)

    def _tell(self, site: str, reason: str, fl_ctx: FLContext) -> None:
        recorder = fl_ctx.get_engine().get_component(self.recorder_id)
        if isinstance(recorder, RunRecorder):
            recorder.note_failure(site, reason, fl_ctx)
        else:
            self.log_error(fl_ctx, reason)
