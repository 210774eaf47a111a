"""Between rounds and final evaluation: tune the heads, fetch them once, assemble one model (METHODS 2.3-2.4)."""

from __future__ import annotations

import time
from pathlib import Path

from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedpartial.flare.persistor import GLOBAL_MODEL, TRUNK_MODEL, read_own
from fedpartial.flare.plan import job_root
from fedpartial.flare.site_executor import COLLECT, FINE_TUNE
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.flare.weights import METRICS, payload_bytes
from fedpartial.networks.assembled import assemble
from fedpartial.networks.wire import from_wire
from fedpartial.server.heads import check_private_part
from fedpartial.server.metrics_check import check_update_metrics
from fedpartial.server.update_check import UpdateRefused
from fedpartial.training.model_file import load_model

NOTHING = "no site gave its heads, so there is no model to assemble; each site has its own in local_model.safetensors"


class HeadCollection(SiteTasks):
    """Writes the assembled model as the job's global model.

    A site that does not answer, whose heads are bad, or whose privacy policy keeps them, is left out and named in the
    report. Without aggregation (NoAggregation) a site gives its whole network, and the model is an ensemble.

    Args:
        timeout: seconds a site may take for fine-tuning, and for its heads; 0 waits.
    """

    def __init__(
        self,
        timeout: int = 0,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
        recorder_id: str = "recorder",
    ):
        super().__init__(timeout, plan_id, persistor_id, recorder_id)
        self._private: dict[str, dict] = {}
        self._tuned_sites: set[str] = set()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        root = Path(job_root(fl_ctx))
        self.alone = self.persistor.standalone(fl_ctx)
        shared = {} if self.alone else read_own(load_model, root / TRUNK_MODEL)[0]
        self._num_shared = len(shared)
        if self.plan.plan.finetune_steps:
            task = DXO(data_kind=DataKind.WEIGHTS, data=shared).to_shareable()
            self._phase("fine-tuning", FINE_TUNE, task, self._tuned, abort_signal, fl_ctx)
        self._phase("collecting heads", COLLECT, Shareable(), self._received, abort_signal, fl_ctx)
        if abort_signal.triggered:
            return
        if not self._private:
            self.system_panic(NOTHING, fl_ctx)
            return
        self._assemble(shared, fl_ctx)

    def _phase(self, name: str, task_name: str, task: Shareable, received, abort_signal, fl_ctx: FLContext) -> None:
        if abort_signal.triggered:
            return
        started = time.monotonic()
        self.recorder.progress.write("phase", name=name)
        self.ask(task_name, task, received, abort_signal, fl_ctx)
        self.recorder.history.phases[name] = time.monotonic() - started

    def _tuned(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """The answer to fine-tuning holds numbers and no tensor."""
        site, result = client_task.client.name, client_task.result
        if not self._answered(site, result, fl_ctx):
            return
        try:
            dxo = from_shareable(result)
            fault = self._exchange_fault(site, dxo)
        except ValueError as refusal:  # MetricsRefused, or from FLARE: an answer without content
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            return
        if fault:
            self.system_panic(fault, fl_ctx)
            return
        metrics = dxo.get_meta_prop(METRICS)
        self._tuned_sites.add(site)
        self.recorder.history.add_bytes("fine_tuning_bytes_down", metrics["bytes_down"])
        self.log_info(fl_ctx, f"{site}: fine-tuned, loss {metrics['loss']:.3f}")
        self.recorder.progress.write("tuned", site=site, loss=metrics["loss"])

    def _exchange_fault(self, site: str, dxo: DXO) -> str | None:
        """Tensors go down and none comes up. MetricsRefused for numbers that cannot be used; they hide no tensor."""
        if dxo.data:
            return f"a private part moved: {site} sent {next(iter(dxo.data))!r} with its answer to fine-tuning"
        metrics = dxo.get_meta_prop(METRICS)
        check_update_metrics(site, metrics, self.plan.plan.config.label_space.classes)
        if metrics["tensors_taken"] != self._num_shared:
            return f"{site} tuned its heads on another trunk: {metrics['tensors_taken']} of {self._num_shared} tensors"
        return None

    def _received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site, result = client_task.client.name, client_task.result
        if not self._answered(site, result, fl_ctx):
            return
        try:
            part = from_shareable(result).data
            check_private_part(site, part, self.plan.plan, whole=self.alone)
            if site not in self.recorder.history.facts:  # they hold the number of cases that weighs the heads
                raise UpdateRefused(f"heads from {site} refused: no update of it was accepted")
        except ValueError as refusal:  # UpdateRefused, or from FLARE: an answer without content
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            return
        self._private[site] = from_wire(part)
        self.recorder.history.add_bytes("heads_bytes_up", payload_bytes(part))
        self.recorder.progress.write("heads", site=site, bytes_up=payload_bytes(part))

    def _answered(self, site: str, result: Shareable, fl_ctx: FLContext) -> bool:
        if result.get_return_code() == ReturnCode.OK:
            return True
        reason = self.recorder.failures.get(site, result.get_return_code())
        self.log_error(fl_ctx, f"no answer from {site}: {reason}")
        return False

    def _assemble(self, shared: dict, fl_ctx: FLContext) -> None:
        history = self.recorder.history
        self._note_missing()
        sizes = {site: history.facts[site]["num_training"] for site in self._private}
        state = assemble(shared, dict(sorted(self._private.items())), sizes)
        path = self.persistor.write(GLOBAL_MODEL, state, history.num_rounds, None, fl_ctx)
        self.log_info(fl_ctx, f"assembled the heads of {', '.join(sorted(self._private))}: {path}")

    def _note_missing(self) -> None:
        """For the report: sites without heads, without fine-tuning, or with heads for the trunk of an earlier round."""
        history = self.recorder.history
        sites = {client.name for client in self._engine.get_clients()} | history.facts.keys()
        for site in sorted(sites - self._private.keys()):
            reason = self.recorder.failures.get(site, "no answer")
            history.notes.append(f"No head of {site} is in the model: {reason}")
        if self.plan.plan.finetune_steps:
            for site in sorted(self._private.keys() - self._tuned_sites):
                reason = self.recorder.failures.get(site, "no answer")
                history.notes.append(f"{site} did not fine-tune its heads: {reason}")
        for site in sorted(self._private.keys() - history.rounds[-1].sites.keys() - self._tuned_sites):
            history.notes.append(f"{site} missed the last round: its heads were trained on an earlier trunk")
