"""The site's side of MMDS: train alone, upload once, keep what comes back, score one's own models (METHODS 4)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor, nn

from fedpartial.errors import ConfigError, needs_space
from fedpartial.flare.learner import (
    SECONDS_BETWEEN_LINES,
    SiteLearner,
    add_validation,
    no_scores,
    stop_if,
    validation_numbers,
)
from fedpartial.flare.plan import plan_of_task
from fedpartial.flare.weights import METRICS, payload_bytes, to_arrays, weights_of_task
from fedpartial.inference.models import load_network
from fedpartial.methods.base import Method
from fedpartial.networks.fusion import LOG_ODDS
from fedpartial.networks.personal import PERSONAL, personal_network
from fedpartial.networks.universal import universal_classes
from fedpartial.sites import read_site
from fedpartial.training.alone import Trained, open_alone, train_alone
from fedpartial.training.model_file import model_info
from fedpartial.training.own_models import OwnModels
from fedpartial.training.plan import differs_in_network_only
from fedpartial.training.reported import ADAPTED
from fedpartial.training.site_session import SiteSession

FINAL, OWN, PERSONALISED = "final", f"{ADAPTED}local", f"{ADAPTED}personalised"


class LoneLearner(SiteLearner):
    """Trains by itself and uploads once; its models lie in the site's own folder and outlive the job."""

    def __init__(self, method: Method):
        super().__init__(method, start_from="local")

    def learn(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The site's whole local model, trained now or before; the task brings embeddings, or nothing."""
        return self._guarded(self._learn, data, fl_ctx, abort_signal)

    def receive(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Keep the global model; the answer is scores of it, of the local one, and of both together."""
        return self._guarded(self._receive, data, fl_ctx, abort_signal)

    def _learn(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        plan, embeddings = plan_of_task(task), from_shareable(task).data
        site = read_site(self.site, self.config_dir)
        session, own = open_alone(site, plan, self.method, embeddings, self._say_step)
        self._session = session
        with needs_space("the site's models", own.folder):
            trained = train_alone(session, own, embeddings, lambda: abort_signal.triggered, self._say_portion)
        said = f"{trained.steps} step(s) of training" if trained.trained_now else "trained before, unchanged"
        self.log_info(fl_ctx, f"{self.site}: local model: {said}")
        scores = session.validation_scores(trained.weights, lambda: abort_signal.triggered)
        stop_if(abort_signal)
        return self._upload(trained, session, scores, payload_bytes(embeddings))

    def _say_portion(self, portion: int) -> None:
        self._round = portion

    def _say_step(self, step: int, loss: float) -> None:
        """How far it is in its own training, which knows no rounds."""
        if time.monotonic() - self._spoke > SECONDS_BETWEEN_LINES:
            self._spoke = time.monotonic()
            schedule = self._session.trainer.schedule
            done = self._round * schedule.local_steps + step
            self.logger.info(f"{self.site}: local step {done} of {schedule.total_steps} loss {loss:.3f}")

    def _upload(self, trained: Trained, session: SiteSession, scores: Mapping, bytes_down: int) -> Shareable:
        dxo = DXO(data_kind=DataKind.WEIGHTS, data=to_arrays(trained.weights))
        dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, trained.steps)
        numbers = {**trained.metrics, **validation_numbers(scores), **self._facts(session)}
        dxo.set_meta_prop(METRICS, {**numbers, "bytes_down": bytes_down, "tensors_taken": 0})
        return dxo.to_shareable()

    def _receive(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        plan, weights = plan_of_task(task), weights_of_task(task)
        session = self._open(task, fl_ctx)
        own = OwnModels(session.site.model_dir, plan.federation, session.site.name)
        with needs_space("the site's models", own.folder):
            own.keep_global(weights, model_info(plan, 1, classes=universal_classes(weights)))
        answer = no_scores()
        add_validation(answer, FINAL, session.validation_scores(weights, lambda: abort_signal.triggered))
        self._add_scores(answer, FINAL, weights, session, fl_ctx, abort_signal)
        if (local := self._local_network(own, session, fl_ctx)) is not None:
            self._score_own(answer, local, weights, session, fl_ctx, abort_signal)
        return DXO(data_kind=DataKind.METRICS, data={**answer, **self._facts(session)}).to_shareable()

    def _local_network(self, own: OwnModels, session: SiteSession, fl_ctx: FLContext) -> nn.Module | None:
        """The site's local model, where there is one that can stand beside the global one; the log says if not."""
        if not own.local.exists():
            return None
        try:
            network, preset = load_network(own.local)
        except ConfigError as error:
            why = f"the local one cannot be used: {error}"
        else:
            if differs_in_network_only(preset, session.preset):
                return session.ready(network)
            why = f"the local one, of preset {preset.name}, differs from the global one in more than its network"
        self.log_warning(fl_ctx, f"{self.site}: own models are not scored: {why}")
        return None

    def _score_own(
        self,
        answer: dict,
        local: nn.Module,
        weights: Mapping[str, Tensor],
        session: SiteSession,
        fl_ctx: FLContext,
        abort_signal: Signal,
    ) -> None:
        """The local model alone, and local first with the global one for all other classes (METHODS 4.6)."""
        started, stop = time.monotonic(), lambda: abort_signal.triggered
        both = session.ready(personal_network(local, session.loaded(weights), session.preset.label_space))
        known = set(universal_classes(weights)) | set(local.classes)
        own_models = {OWN: (local, LOG_ODDS, local.classes), PERSONALISED: (both, PERSONAL, known)}
        for name, (network, fusion, classes) in own_models.items():
            scores = session.score_network(network, stop, fusion, classes=classes)
            stop_if(abort_signal)
            answer["testing"][name] = [s.to_dict() for s in scores]
        self.log_info(fl_ctx, f"{self.site}: own models scored in {time.monotonic() - started:.0f} s")
