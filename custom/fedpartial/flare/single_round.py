"""The server's side of MMDS (METHODS 4): every site of the stage uploads once, all stored models are distilled into a
global one, the stage's sites receive it. Sites that are not in the job are never contacted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from fedpartial.distillation.distiller import Distilled
from fedpartial.distillation.entropy import Domain, Form, SelectionRule
from fedpartial.distillation.selection import taught
from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft, needs_space
from fedpartial.flare.lone_learner import FINAL, OWN, PERSONALISED
from fedpartial.flare.persistor import GLOBAL_MODEL, read_own
from fedpartial.flare.plan import job_root
from fedpartial.flare.site_executor import RECEIVE
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.flare.uploads import Patience, Uploads
from fedpartial.networks.embeddings import read_embeddings
from fedpartial.networks.wire import wire_bytes
from fedpartial.server.metrics_check import SCORES, MetricsRefused, check_scores
from fedpartial.server.stage import DOWN, Distillation, Stage
from fedpartial.training.local_trainer import TrainingDiverged, TrainingStopped

EXPECTED_ERRORS = (ConfigError, DataFaults, NoSpaceLeft, TrainingDiverged)


class SingleRound(SiteTasks):
    """One stage of MMDS, or a part of it.

    A site that fails, or whose model is refused, is named, and the stage goes on with the others as long as min_clients
    models come; what has come is kept in the store in any case. Sites that are still training when the server has
    distilled are left out of the distribution.

    Args:
        min_clients: models that have to come in this stage (k of n).
        distil_steps: steps of training the global model; 0 distils nothing, the stored global model is distributed.
        learn: ask the sites for their local models; false only distributes and scores.
        enough: distil as soon as so many sites have uploaded; 0 waits for every site that lives.
        grace: seconds to wait for others after that.
        deadline: seconds after which the server distils what has arrived, if that is min_clients; 0 for none.
        linger: seconds that the job stays open for late models when all else is done; they are for the next stage.
        warm_start: begin with the latest global model; the paper begins at random.
        entropy: "one_sided" as in the paper, or "binary".
        entropy_domain: "predicted_fg", or "all" as in the paper, where an empty map wins by being empty.
        min_fg_voxels: fewer predicted voxels are an empty map.
        embeddings: a file of class vectors in the job's own server app (safetensors); empty for the seeded table.
        timeout: seconds a site may take to receive and score; 0 waits.
    """

    def __init__(
        self,
        min_clients: int,
        distil_steps: int,
        learn: bool = True,
        enough: int = 0,
        grace: float = 0.0,
        deadline: float = 0.0,
        linger: float = 0.0,
        warm_start: bool = False,
        entropy: Form = "one_sided",
        entropy_domain: Domain = "predicted_fg",
        min_fg_voxels: int = SelectionRule.min_fg_voxels,
        embeddings: str = "",
        timeout: int = 0,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
        recorder_id: str = "recorder",
    ):
        super().__init__(timeout, plan_id, persistor_id, recorder_id)
        times = {"grace": grace, "deadline": deadline, "linger": linger}
        self.patience = Patience(min_clients=min_clients, enough=enough, **times)
        _check_steps(distil_steps)
        rule = SelectionRule(form=entropy, domain=entropy_domain, min_fg_voxels=min_fg_voxels)
        self.how = Distillation(steps=distil_steps, rule=rule, warm_start=warm_start)
        self.learn, self.embeddings_file = learn, embeddings
        self._spoke = 0.0

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        try:
            with needs_space("the model store", Path(job_root(fl_ctx))):
                self._run(abort_signal, fl_ctx)
        except TrainingStopped as stopped:
            self.log_info(fl_ctx, str(stopped))
        except EXPECTED_ERRORS as error:
            self.system_panic(str(error), fl_ctx)

    def _run(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.stage = self._open(fl_ctx)
        self.uploads = Uploads(self, self.stage, self.patience)
        self.sites = [client.name for client in self._engine.get_clients()]
        if self.learn and not self._collect(abort_signal, fl_ctx):
            return
        if self.how.steps and not abort_signal.triggered:
            self._distil(abort_signal)
        if not abort_signal.triggered:
            self._distribute(abort_signal, fl_ctx)
        if self.learn and not abort_signal.triggered:
            self.uploads.wait_for_late(lambda: abort_signal.triggered)

    def _open(self, fl_ctx: FLContext) -> Stage:
        root, plan, given = Path(job_root(fl_ctx)), self.plan.plan, {}
        config_dir = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir())
        if self.embeddings_file:
            path = root / Path(self.embeddings_file).name  # of the job's own app, never another file of the server
            given = read_own(lambda file: read_embeddings(file, plan.config.network.embedding), path)
        stage = Stage(plan, config_dir, given)
        stage.check()
        return stage

    def _collect(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        """Wait for the local models; False where the stage cannot go on."""
        history = self.recorder.history
        history.start_round(0)
        self.recorder.progress.write("phase", name=f"local training at {', '.join(self.sites)}")
        self.uploads.collect(lambda: abort_signal.triggered, fl_ctx)
        history.finish_round()
        if abort_signal.triggered:
            return False
        missing = self.uploads.missing(self.sites)
        history.notes += [f"{site} gave no model to this stage: {why}" for site, why in missing.items()]
        if not self.uploads.enough_came:
            came = f"{len(self.uploads.uploaded)} model(s) came and the stage needs {self.patience.min_clients}"
            why = "; ".join(f"{site}: {reason}" for site, reason in missing.items())
            self.system_panic(f"{came}. {why}. What came is kept in the store for the next stage.", fl_ctx)
        return self.uploads.enough_came

    def _distil(self, abort_signal: Signal) -> None:
        started, names = time.monotonic(), sorted(self.stage.store.sites())
        self.recorder.progress.write("phase", name=f"distillation of {', '.join(names)}")
        found = self.stage.distil(
            self.how,
            stop=lambda: abort_signal.triggered,
            on_progress=self._say,
        )
        self.recorder.history.phases["distillation"] = time.monotonic() - started
        self.recorder.history.notes.append(who_taught(found))
        left_out = found.left_out.items()
        self.recorder.history.notes += [f"The model of {site} taught nothing: {why}" for site, why in left_out]

    def _say(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._spoke > 2.0 or done == total:
            self._spoke = time.monotonic()
            self.recorder.progress.write("distilling", what=what, done=done, total=total)

    def _distribute(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Send the global model to this stage's sites, which score it and their own ones."""
        weights = self.stage.global_model()
        self.persistor.write(GLOBAL_MODEL, weights, 1, None, fl_ctx)
        started = time.monotonic()
        self.recorder.progress.write("phase", name="distribution and scores")
        self._size = wire_bytes(weights, self.plan.plan.wire)
        training = set(self.sites) - self.uploads.answered if self.learn else set()
        task = DXO(data_kind=DataKind.WEIGHTS, data=weights).to_shareable()
        self.ask(RECEIVE, task, self._scores_received, abort_signal, fl_ctx, without=training)
        self.recorder.history.phases["distribution and scores"] = time.monotonic() - started
        for site in sorted(set(self.sites) - self.recorder.adapted.keys() - training):
            why = self.recorder.failures.get(site, "gone" if self.is_gone(site) else "no answer")
            self.recorder.history.notes.append(f"{site} has not scored the global model: {why}")

    def _scores_received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site, result = client_task.client.name, client_task.result
        self.stage.sent(site, RECEIVE, DOWN, self._size)
        self.recorder.history.add_download(site, self._size)
        if result.get_return_code() != ReturnCode.OK:
            reason = self.recorder.failures.get(site, result.get_return_code())
            self.log_error(fl_ctx, f"no scores of {site}: {reason}")
            return
        try:
            dxo = from_shareable(result)
            if dxo.data_kind != DataKind.METRICS:
                raise MetricsRefused(f"scores of {site} refused: got {dxo.data_kind}; expected numbers only")
            check_scores(site, dxo.data, self.plan.plan.config.label_space.classes)
            check_models(site, dxo.data)
        except ValueError as refusal:  # MetricsRefused, or from FLARE: an answer without content
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            return
        self.recorder.adapted[site] = dxo.data
        self.recorder.progress.write("scored", site=site)


def _check_steps(steps: object) -> None:
    if type(steps) is int and steps >= 0:
        return
    remedy = "Correct it in config_fed_server.json."
    expected = "a whole number of at least 0"
    raise ConfigError(where="job", field="distil_steps", got=steps, expected=expected, remedy=remedy)


def check_models(site: str, answer: Mapping) -> None:
    """No site speaks for another's model, and the global one is always scored; MetricsRefused."""
    found = {model for field in SCORES for model in answer.get(field, ())}
    if FINAL not in answer["testing"] or found - {FINAL, OWN, PERSONALISED}:
        shown = ", ".join(sorted(found)) or "no model"
        raise MetricsRefused(f"scores of {site} refused: got scores of {shown}; expected its own and the global model")


def who_taught(found: Distilled) -> str:
    """For the report: of which model each class was learnt, on how many volumes."""
    counts = {name: {t: n for t, n in by.items() if n} for name, by in taught(found.choices).items()}
    said = {name: ", ".join(f"{t} {n}" for t, n in sorted(by.items())) for name, by in counts.items()}
    lines = (f"{name}: {text or 'nobody, no model sees it'}" for name, text in said.items())
    return f"Teachers by class and number of public volumes: {'; '.join(lines)}"
