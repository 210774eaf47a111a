"""The last workflow of every job: score the models at every site and on the external set, write the report.

FLARE's CrossSiteModelEval sends one task per model and site, which is a new process each in the simulator
with one thread, and returns means only; here one task carries all models, in portions of bounded size,
and answers hold the scores of every case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedpartial.errors import ConfigError
from fedpartial.flare.learner import FUSION, TAUGHT, VALIDATED
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL, read_own
from fedpartial.flare.plan import job_root, plan_of_server, site_name
from fedpartial.flare.received_arrays import kept_in_file
from fedpartial.flare.recorder import GONE
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.flare.weights import MODELS, payload_bytes
from fedpartial.networks.fusion import LOG_ODDS, read_fusion
from fedpartial.networks.wire import as_received
from fedpartial.server.external_set import KEPT_PREDICTIONS
from fedpartial.server.final_report import FinalReport
from fedpartial.training.model_file import load_model
from fedpartial.training.plan import Plan
from fedpartial.training.reported import LOCAL

PORTION_BYTES = 256 * 1024**2
NO_LOCAL_MODELS = (
    "nothing to evaluate: without aggregation there are only the sites' models. The server has them from the updates "
    "of the last round, if cross_site is true, and not in a run that is continued after it. Every site keeps its own "
    "in local_model.safetensors of the job that trained it."
)
NO_WHOLE_MODELS = (
    "cross_site scores whole models of the sites, and with private heads the server has none: "
    "set cross_site to false in config_fed_server.json"
)


class FinalEvaluation(SiteTasks):
    """Evaluates the final, the best and (cross_site) every local model, then writes the report.

    Where nothing is aggregated (NoAggregation) there are only local models, and every class is reported from the model
    of a site that annotates it; such a job needs cross_site. With private heads there is one model, assembled from all
    of them (HeadCollection comes before), and no local model of a site.

    Args:
        cross_site: also score every site's last local model at all sites.
        scored: the sites have scored the global model before, with their answer to an earlier task (SingleRound); they
            are not asked again.
        timeout: seconds a site may take for one portion of models; 0 waits.
        keep_predictions: label maps of the external set to keep in the job's folder, by number; 0 for none.
        fusion: how private heads become one label map, for example {"rule": "priority", "priority": ["spleen"]}.
    """

    def __init__(
        self,
        cross_site: bool = True,
        timeout: int = 0,
        keep_predictions: int = KEPT_PREDICTIONS,
        fusion: Mapping | None = None,
        scored: bool = False,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
        recorder_id: str = "recorder",
    ):
        super().__init__(timeout, plan_id, persistor_id, recorder_id)
        self.cross_site, self.keep_predictions = cross_site, keep_predictions
        self.fusion = read_fusion(fusion or {})
        self._local_models: dict[str, dict] = {}
        self.scored: set[str] = set()
        self.ask_sites = not scored

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            self._check_heads(plan_of_server(fl_ctx, self.plan_id).plan, fl_ctx)
        elif event_type == AppEventType.AFTER_CONTRIBUTION_ACCEPT and self.cross_site:
            last_round = plan_of_server(fl_ctx, self.plan_id).plan.num_rounds - 1
            accepted = fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED)
            if accepted and fl_ctx.get_prop(AppConstants.CURRENT_ROUND) == last_round:
                self._keep_local_model(fl_ctx)

    def _check_heads(self, plan: Plan, fl_ctx: FLContext) -> None:
        """What cannot be evaluated ends the job before anything is trained."""
        if self.cross_site and plan.private_heads:
            self.system_panic(NO_WHOLE_MODELS, fl_ctx)
        if self.fusion != LOG_ODDS and not plan.private_heads:
            self.system_panic("fusion is for private heads, and this run has a joint head: leave it out", fl_ctx)
        try:
            self.fusion.decide(plan.config.label_space)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)

    def _keep_local_model(self, fl_ctx: FLContext) -> None:
        """A site's local model is what the site received in this round plus its update; it need not be sent again.

        It lies in a file until it is evaluated: the server's memory does not grow with the number of sites."""
        model = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS]
        weights = as_received(model, plan_of_server(fl_ctx, self.plan_id).plan.wire)
        update = from_shareable(fl_ctx.get_prop(AppConstants.TRAINING_RESULT)).data
        local = ((name, weights[name] + update[name]) for name in weights)
        self._local_models[site_name(fl_ctx.get_peer_context())] = kept_in_file(local, Path(job_root(fl_ctx)))

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.recorder.progress.write("phase", name="final evaluation")
        self.report = FinalReport(
            plan=self.plan.plan,
            history=self.recorder.history,
            config_dir=_config_dir(fl_ctx),
            fusion=self.fusion,
        )
        for site, answer in sorted(self.recorder.adapted.items()):
            self.report.add_site_scores(site, answer)
        if not self.ask_sites:
            self.scored = set(self.recorder.adapted)
        root = Path(job_root(fl_ctx))
        standalone = self.persistor.standalone(fl_ctx) and not self.plan.plan.private_heads
        models = {} if standalone else self._global_models(root, fl_ctx)
        validated = ["final"] if models else []  # the best of the earlier rounds was validated when it was one
        models |= {f"{LOCAL}{site}": weights for site, weights in sorted(self._local_models.items())}
        if not models:
            self.system_panic(NO_LOCAL_MODELS, fl_ctx)
            return
        for portion in portions(models, PORTION_BYTES) if self.ask_sites else ():
            if abort_signal.triggered:
                return
            self._evaluate(portion, validated or list(models), abort_signal, fl_ctx)
        if abort_signal.triggered:
            return
        if standalone:
            self._finish_standalone(root, models, abort_signal, fl_ctx)
        else:
            self._finish(root, models, abort_signal, fl_ctx)

    def _global_models(self, root: Path, fl_ctx: FLContext) -> dict[str, dict]:
        models = {"final": read_own(load_model, root / GLOBAL_MODEL)[0]}
        if self.persistor.selects_rounds(fl_ctx) and (root / BEST_MODEL).exists():
            models["best"] = read_own(load_model, root / BEST_MODEL)[0]
        return models

    @property
    def taught(self) -> list[str] | None:
        """The classes that the global models know; None where that is not known (networks/known_classes.py)."""
        known = self.persistor.annotated()
        return None if known is None else sorted(known)

    def _evaluate(self, models: dict[str, dict], validated: list[str], abort_signal: Signal, fl_ctx: FLContext) -> None:
        data = Shareable()
        data[MODELS], data[VALIDATED], data[FUSION] = models, validated, asdict(self.fusion)
        data[TAUGHT] = self.taught
        self.ask(AppConstants.TASK_VALIDATION, data, self._scores_received, abort_signal, fl_ctx)

    def _scores_received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site = client_task.client.name
        if client_task.result.get_return_code() != ReturnCode.OK:
            self._no_answer(site, self.recorder.failures.get(site, client_task.result.get_return_code()), fl_ctx)
            return
        try:
            self.report.add_site_scores(site, from_shareable(client_task.result).data)
        except ValueError as refusal:  # MetricsRefused, or from FLARE: an answer without content
            self.report.failures[site] = str(refusal)
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            return
        self.scored.add(site)
        self.recorder.progress.write("scored", site=site)

    def _no_answer(self, site: str, reason: str, fl_ctx: FLContext) -> None:
        self.report.failures[site] = str(reason)
        self.log_error(fl_ctx, f"no answer from {site} for the final evaluation: {reason}")

    def _finish(self, root: Path, models: dict[str, dict], abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Select, score the external set, write the report beside the models, show table and path."""
        self._note_gone()
        selected = self.report.select(models)
        if selected == "final":
            history = self.recorder.history
            self.persistor.write(BEST_MODEL, models["final"], history.num_rounds, self.report.selected_dice, fl_ctx)
        self._write_report(root, {selected: models[selected]}, abort_signal, fl_ctx)

    def _finish_standalone(self, root: Path, models: dict[str, dict], abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Keep every site's model under its site's name, and report each class from its site's model."""
        self._note_gone()
        self.report.select_local()
        for name, weights in models.items():
            file, site = f"{name.replace(' ', '_')}.safetensors", name.removeprefix(LOCAL)
            self.persistor.write(file, weights, self.recorder.history.num_rounds, None, fl_ctx, site)
        self._write_report(root, models, abort_signal, fl_ctx)

    def _note_gone(self) -> None:
        for site in self.recorder.gone - self.scored:
            self.report.failures.setdefault(site, self.recorder.failures.get(site, GONE))

    def _write_report(self, root: Path, models: dict[str, dict], abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.recorder.progress.write("phase", name="external set")
        paths, table = self.report.write(
            root, models, lambda: abort_signal.triggered, keep=self.keep_predictions, taught=self.taught
        )
        self.log_info(fl_ctx, f"results\n{table}")
        self.log_info(fl_ctx, f"report: {paths.html}")
        self.recorder.progress.write("report", path=str(paths.html))


def portions(models: dict[str, dict], limit: int) -> Iterator[dict[str, dict]]:
    """Models in portions of at most ``limit`` bytes, one model at least in each."""
    portion: dict[str, dict] = {}
    size = 0
    for name, weights in models.items():
        extra = payload_bytes(weights)
        if portion and size + extra > limit:
            yield portion
            portion, size = {}, 0
        portion[name] = weights
        size += extra
    if portion:
        yield portion


def _config_dir(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir())
