"""After the rounds: every site adapts the federated model to its own data, keeps it, and reports numbers only.

METHODS 3.5. The adapted models never leave their sites.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from fedpartial.errors import ConfigError
from fedpartial.flare.learner import ADAPTATION
from fedpartial.flare.persistor import GLOBAL_MODEL, read_own
from fedpartial.flare.plan import job_root, plan_of_server
from fedpartial.flare.site_executor import ADAPT
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.networks.parts import check_has_parts
from fedpartial.networks.wire import wire_bytes
from fedpartial.server.metrics_check import SCORES, MetricsRefused, check_scores
from fedpartial.training.adaptation import WHOLE_NETWORK, AdaptationPlan
from fedpartial.training.model_file import load_model
from fedpartial.training.reported import ADAPTATION_WAYS, ADAPTED

PHASE = "site adaptation"
NO_COMMON_MODEL = "site adaptation starts from a global model of all classes, and this job makes none"


class SiteAdaptation(SiteTasks):
    """Sends the last global model once; the answers go into the report (FinalEvaluation comes after).

    A site that does not answer, or whose answer is not numbers, is named in the report and has no adapted scores.

    Args:
        steps: local steps of each way.
        lr_factor: of the preset's learning rate, where the adaptation starts.
        ways: which parts adapt: "all", "encoder_frozen", "decoder_frozen".
        timeout: seconds a site may take; 0 waits.
    """

    def __init__(
        self,
        steps: int,
        lr_factor: float = 0.1,
        ways: Sequence[str] = ADAPTATION_WAYS,
        timeout: int = 0,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
        recorder_id: str = "recorder",
    ):
        super().__init__(timeout, plan_id, persistor_id, recorder_id)
        self.adaptation = AdaptationPlan(steps=steps, lr_factor=lr_factor, ways=ways)
        self._named: set[str] = set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """What cannot be adapted ends the job before anything is trained."""
        super().handle_event(event_type, fl_ctx)
        if event_type != EventType.START_RUN:
            return
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        if plan.private_heads or fl_ctx.get_engine().get_component(self.persistor_id).standalone(fl_ctx):
            self.system_panic(NO_COMMON_MODEL, fl_ctx)
            return
        try:
            if set(self.adaptation.ways) - {WHOLE_NETWORK}:
                check_has_parts(plan.config.network)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        if abort_signal.triggered:
            return
        started, history = time.monotonic(), self.recorder.history
        self.recorder.progress.write("phase", name=PHASE)
        weights, _ = read_own(load_model, Path(job_root(fl_ctx)) / GLOBAL_MODEL)
        task = DXO(data_kind=DataKind.WEIGHTS, data=weights).to_shareable()
        task[ADAPTATION] = self.adaptation.to_dict()
        self._bytes = wire_bytes(weights, self.plan.plan.wire)
        self.ask(ADAPT, task, self._received, abort_signal, fl_ctx)
        if not abort_signal.triggered:
            self._name_the_silent(fl_ctx)
        history.phases[PHASE] = time.monotonic() - started

    def _received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site, result = client_task.client.name, client_task.result
        if result.get_return_code() != ReturnCode.OK:
            self._missing(site, self.recorder.failures.get(site, result.get_return_code()), fl_ctx)
            return
        try:
            dxo = from_shareable(result)
            if dxo.data_kind != DataKind.METRICS:
                raise MetricsRefused(f"adaptation of {site} refused: got {dxo.data_kind}; expected numbers only")
            check_scores(site, dxo.data, self.plan.plan.config.label_space.classes)
            self._check_models(site, dxo.data)
        except ValueError as refusal:  # MetricsRefused, or from FLARE: an answer without content
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            self._missing(site, str(refusal), fl_ctx)
            return
        self.recorder.adapted[site] = dxo.data
        self.recorder.history.add_bytes("adaptation_bytes_down", self._bytes)
        self.recorder.progress.write("adapted", site=site)

    def _check_models(self, site: str, answer: Mapping) -> None:
        """Only what was asked for, and all of it: no site speaks for the global model or for another's."""
        asked = {f"{ADAPTED}{way}" for way in self.adaptation.ways}
        found = {model for field in SCORES for model in answer.get(field, ())}
        if found != asked or set(answer["testing"]) != asked:
            shown, expected = ", ".join(sorted(found)), ", ".join(sorted(asked))
            raise MetricsRefused(
                f"adaptation of {site} refused: got scores of {shown or 'no model'}; expected {expected}"
            )

    def _name_the_silent(self, fl_ctx: FLContext) -> None:
        """Sites that are gone are not asked, or never answer."""
        known = self._named | self.recorder.adapted.keys()
        for site in sorted({client.name for client in self._engine.get_clients()} - known):
            self._missing(site, self.recorder.failures.get(site, "no answer"), fl_ctx)

    def _missing(self, site: str, reason: object, fl_ctx: FLContext) -> None:
        self._named.add(site)
        self.recorder.history.notes.append(f"{site} reported no adapted model: {reason}")
        self.log_error(fl_ctx, f"no adapted model of {site}: {reason}")
