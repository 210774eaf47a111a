"""The server's side of MMDS (METHODS 4): every site of the stage uploads once, all stored models are distilled into a
global one, the stage's sites receive it. Sites that are not in the job are never contacted.

The task of uploading stays open while the server distils: FLARE's clients drop the result of a task that is over, and a
model that comes late must reach the store, for the next stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from fedpartial.distillation.distiller import Distilled
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft, needs_space
from fedpartial.flare.lone_learner import FINAL, OWN, PERSONALISED
from fedpartial.flare.persistor import GLOBAL_MODEL
from fedpartial.flare.plan import job_root
from fedpartial.flare.site_executor import LEARN, RECEIVE
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.flare.weights import METRICS, payload_bytes
from fedpartial.networks.embeddings import read_embeddings
from fedpartial.networks.universal import EMBEDDINGS
from fedpartial.server.metrics_check import SCORES, MetricsRefused, check_scores, check_update_metrics
from fedpartial.server.stage import Distillation, Stage
from fedpartial.training.local_trainer import TrainingDiverged, TrainingStopped

UP, DOWN = "up", "down"
EXPECTED_ERRORS = (ConfigError, DataFaults, NoSpaceLeft, TrainingDiverged)
NOTHING_YET = "this federation has no global model yet: run a stage that distils one"
LOOK_SECONDS = 0.5


class SingleRound(SiteTasks):
    """One stage of MMDS, or a part of it.

    A site that fails, or whose model is refused, is named, and the stage goes on with the others as long as min_clients
    models come; what has come is kept in the store in any case. Sites that are still training when the server has distilled are left out of the distribution.

    Args:
        min_clients: models that have to come in this stage (k of n).
        distil_steps: steps of training the global model; 0 distils nothing, the stored global model is distributed.
        learn: ask the sites for their local models; false only distributes and scores.
        enough: distil as soon as so many sites have uploaded (k of n); 0 waits for every site that lives.
        grace: seconds to wait for others after that.
        deadline: seconds after which the server distils what has arrived; 0 for none.
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
        warm_start: bool = False,
        entropy: Literal["one_sided", "binary"] = "one_sided",
        entropy_domain: Literal["all", "predicted_fg"] = "predicted_fg",
        min_fg_voxels: int = SelectionRule.min_fg_voxels,
        embeddings: str = "",
        timeout: int = 0,
        plan_id: str = "plan",
        persistor_id: str = "persistor",
        recorder_id: str = "recorder",
    ):
        super().__init__(timeout, plan_id, persistor_id, recorder_id)
        _check_numbers(
            min_clients=min_clients, distil_steps=distil_steps, enough=enough, grace=grace, deadline=deadline
        )
        rule = SelectionRule(form=entropy, domain=entropy_domain, min_fg_voxels=min_fg_voxels)
        self.how = Distillation(steps=distil_steps, rule=rule, warm_start=warm_start)
        self.min_clients, self.learn, self.enough, self.grace, self.deadline = (
            min_clients,
            learn,
            enough,
            grace,
            deadline,
        )
        self.embeddings_file = embeddings
        self._uploaded: dict[str, int] = {}
        self._answered: set[str] = set()
        self._phantom = False

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        try:
            with needs_space("the model store", Path(job_root(fl_ctx))):
                self._run(abort_signal, fl_ctx)
        except TrainingStopped as stopped:
            self.log_info(fl_ctx, str(stopped))
        except EXPECTED_ERRORS as error:
            self.log_error(fl_ctx, str(error))
            self.system_panic(str(error), fl_ctx)

    def _run(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.stage = self._open(fl_ctx)
        self.sites = [client.name for client in self._engine.get_clients()]
        if self.learn and not self._collect(abort_signal, fl_ctx):
            return
        if self.how.steps and not abort_signal.triggered:
            self._distil(abort_signal, fl_ctx)
        if not abort_signal.triggered:
            self._distribute(abort_signal, fl_ctx)

    def _open(self, fl_ctx: FLContext) -> Stage:
        root, plan = Path(job_root(fl_ctx)), self.plan.plan
        config_dir = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir())
        given = {}
        if self.embeddings_file:
            path = root / Path(self.embeddings_file).name  # of the job's own app, never another file of the server
            given = read_embeddings(path, plan.config.network.embedding)
        return Stage(plan, config_dir, given)

    # --- local models -------------------------------------------------------------------------------------

    def _collect(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        """Ask for the local models and wait for them; False where the stage cannot go on."""
        history = self.recorder.history
        history.start_round(0)
        self.recorder.progress.write("phase", name=f"local training at {', '.join(self.sites)}")
        vectors = {f"{EMBEDDINGS}{name}": vector for name, vector in self.stage.embeddings.items()}
        data = DXO(data_kind=DataKind.WEIGHTS, data=vectors).to_shareable()
        self.plan.attach(data)
        targets = [c for c in self._engine.get_clients() if not self._is_gone(c.name)]
        for client in targets:
            self.stage.sent(client.name, LEARN, DOWN, payload_bytes(vectors))
        task = Task(name=LEARN, data=data, result_received_cb=self._model_received)
        with self.recorder.silence.watched(self.communicator, self._engine):
            self.broadcast(task, fl_ctx, targets=targets, min_responses=len(targets))
            self._wait([client.name for client in targets], lambda: abort_signal.triggered)
        history.finish_round()
        if abort_signal.triggered:
            return False
        self._note_missing()
        if came := len(self._uploaded) >= max(self.min_clients, 1):
            return came
        number = f"{len(self._uploaded)} model(s) came and the stage needs {self.min_clients}"
        self.system_panic(f"{number}. {self._reasons()}. What came is kept in the store for the next stage.", fl_ctx)
        return False

    def _wait(self, asked: list[str], stop: Callable[[], bool]) -> None:
        """Until every site has answered or is gone, enough have uploaded, or the deadline has passed."""
        started, enough_since = time.monotonic(), None
        while not stop():
            now = time.monotonic()
            if all(site in self._answered or self._is_gone(site) for site in asked):
                return
            if self.deadline and now - started >= self.deadline:
                return
            if self.enough and len(self._uploaded) >= self.enough:
                enough_since = enough_since or now
                if now - enough_since >= self.grace:
                    return
            time.sleep(LOOK_SECONDS)

    def _model_received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Also while the server distils: then the model waits in the store for the next stage."""
        site, result = client_task.client.name, client_task.result
        try:
            if result.get_return_code() != ReturnCode.OK:
                reason = self.recorder.failures.get(site, result.get_return_code())
                self.log_error(fl_ctx, f"no model of {site}: {reason}")
                return
            self._store(site, from_shareable(result), fl_ctx)
        except (ValueError, ConfigError, OSError) as refusal:  # ValueError: UpdateRefused, MetricsRefused, or FLARE's
            self.recorder.note_failure(site, str(refusal), fl_ctx)
        finally:
            self._answered.add(site)

    def _store(self, site: str, dxo: DXO, fl_ctx: FLContext) -> None:
        metrics, steps = dxo.get_meta_prop(METRICS), dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)
        check_update_metrics(site, metrics, self.plan.plan.config.label_space.classes)
        if dxo.data_kind != DataKind.WEIGHTS or type(steps) is not int or steps < 0:
            raise MetricsRefused(f"model of {site} refused: got {dxo.data_kind}, steps {steps!r:.40}")
        entry = self.stage.accept(site, dxo.data, steps, metrics)
        size = payload_bytes(dxo.data)
        self.stage.sent(site, LEARN, UP, size)
        self._uploaded[site] = entry.version
        self._phantom = self._phantom or metrics["source"] == "phantom"
        self.recorder.history.add_update(site, metrics, size)
        self.recorder.progress.write(
            "model", site=site, version=entry.version, steps=steps, loss=metrics["loss"], bytes_up=size
        )
        self.log_info(fl_ctx, f"{site}: version {entry.version} of its model is stored ({', '.join(entry.classes)})")

    def _note_missing(self) -> None:
        for site in self.sites:
            if site not in self._uploaded:
                why = self.recorder.failures.get(site, "gone" if self._is_gone(site) else "it has not finished")
                self.recorder.history.notes.append(f"{site} gave no model to this stage: {why}")

    def _reasons(self) -> str:
        missing = [site for site in self.sites if site not in self._uploaded]
        return "; ".join(f"{site}: {self.recorder.failures.get(site, 'no answer')}" for site in missing)

    # --- the global model ---------------------------------------------------------------------------------

    def _distil(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        started, names = time.monotonic(), sorted(self.stage.store.sites())
        self.recorder.progress.write("phase", name=f"distillation of {', '.join(names)}")
        found = self.stage.distil(
            self.how,
            phantom=self._phantom,
            stop=lambda: abort_signal.triggered,
            on_progress=lambda what, done, total: self._say(what, done, total),
        )
        self.recorder.history.phases["distillation"] = time.monotonic() - started
        self.recorder.history.notes.append(_who_taught(found))

    def _say(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - getattr(self, "_spoke", 0.0) > 2.0 or done == total:
            self._spoke = now
            self.recorder.progress.write("distilling", what=what, done=done, total=total)

    def _distribute(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Send the global model to this stage's sites, which score it and their own ones."""
        weights = self.stage.latest()
        if weights is None:
            raise ConfigError(
                where="model store",
                field="global model",
                got="none",
                expected="one",
                remedy=NOTHING_YET,
            )
        self.persistor.write(GLOBAL_MODEL, weights, 1, None, fl_ctx)
        started = time.monotonic()
        self.recorder.progress.write("phase", name="distribution and scores")
        self._size = payload_bytes(weights)
        busy = set(self.sites) - self._answered if self.learn else set()
        task = DXO(data_kind=DataKind.WEIGHTS, data=weights).to_shareable()
        self.ask(RECEIVE, task, self._scores_received, abort_signal, fl_ctx, without=busy)
        self.recorder.history.phases["distribution and scores"] = time.monotonic() - started

    def _scores_received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site, result = client_task.client.name, client_task.result
        self.stage.sent(site, RECEIVE, DOWN, self._size)
        if result.get_return_code() != ReturnCode.OK:
            reason = self.recorder.failures.get(site, result.get_return_code())
            self.log_error(fl_ctx, f"no scores of {site}: {reason}")
            return
        try:
            dxo = from_shareable(result)
            if dxo.data_kind != DataKind.METRICS:
                raise MetricsRefused(f"scores of {site} refused: got {dxo.data_kind}; expected numbers only")
            check_scores(site, dxo.data, self.plan.plan.config.label_space.classes)
            _check_models(site, dxo.data)
        except ValueError as refusal:
            self.recorder.note_failure(site, str(refusal), fl_ctx)
            return
        self.stage.sent(site, RECEIVE, UP, 0)
        self.recorder.adapted[site] = dxo.data
        self.recorder.progress.write("scored", site=site)


def _check_models(site: str, answer: Mapping) -> None:
    """No site speaks for another's model, and the global one is always scored."""
    found = {model for field in SCORES for model in answer.get(field, ())}
    if FINAL not in answer["testing"] or found - {FINAL, OWN, PERSONALISED}:
        shown = ", ".join(sorted(found)) or "no model"
        raise MetricsRefused(f"scores of {site} refused: got scores of {shown}; expected its own and the global model")


def _who_taught(found: Distilled) -> str:
    """For the report: of which model each class was learnt, on how many volumes."""
    counts: dict[str, dict[str, int]] = {}
    for choice in found.choices:
        by_teacher = counts.setdefault(choice.klass, {})
        by_teacher[choice.teacher] = by_teacher.get(choice.teacher, 0) + 1
    lines = (f"{name}: " + ", ".join(f"{t} {n}" for t, n in sorted(by.items())) for name, by in counts.items())
    return f"Teachers by class and number of public volumes: {'; '.join(lines)}"


def _check_numbers(**given: float) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(
                where="job",
                field=name,
                got=value,
                expected="a number of at least 0",
                remedy="Correct it in config_fed_server.json.",
            )
