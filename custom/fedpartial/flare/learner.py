"""The site's side of every job: a FLARE Learner around a SiteSession.

LearnerExecutor calls validate() before every train(); train() loads the weights itself all the same. The
simulator with one thread makes a new learner for every task, so nothing is kept in memory that the next
task needs: optimiser state and local model are files in the job's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.learner_spec import Learner
from nvflare.app_common.app_constant import AppConstants, ValidateType
from torch import Tensor

from fedpartial.errors import ConfigError, DataFaults, NoSpaceLeft, needs_space
from fedpartial.flare.code_check import check_task_code
from fedpartial.flare.failure import FAILURE_FILE, REASON_HEADER, public_reason, write_failure
from fedpartial.flare.plan import job_root, plan_of_task, site_name
from fedpartial.flare.weights import (
    MODELS,
    message_bytes,
    narrow,
    to_arrays,
    to_tensors,
    update_message,
    weights_of_task,
)
from fedpartial.methods.base import Method, check_choice
from fedpartial.networks.canonical import StateMismatch
from fedpartial.networks.fusion import LOG_ODDS, Fusion, read_fusion
from fedpartial.sites import read_site
from fedpartial.training.adaptation import AdaptationPlan
from fedpartial.training.checkpoint import adopt_states
from fedpartial.training.evaluator import mean_dice
from fedpartial.training.local_trainer import StartFrom, TrainingDiverged, TrainingStopped
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan
from fedpartial.training.reported import ADAPTED, ANNOTATED, GLOBAL_MODELS, LOCAL, VALIDATION
from fedpartial.training.site_session import SiteSession

STATE = "state"
LOCAL_MODEL = "local_model.safetensors"
ADAPTED_MODEL = "adapted_{}.safetensors"
VALIDATED = "fedpartial_validated"
"""Names of the models in a task whose validation Dice is asked for; a site never validates another's local model."""
FUSION = "fedpartial_fusion"
"""How private heads become one label map."""
TAUGHT = "fedpartial_taught"
"""The classes that the global models were taught, None where that is not known."""
ADAPTATION = "fedpartial_adaptation"
"""The plan of an adaptation in its task."""
EXPECTED_ERRORS = (ConfigError, DataFaults, NoSpaceLeft, StateMismatch, TrainingDiverged)
SECONDS_BETWEEN_LINES = 5.0


class SiteLearner(Learner):
    """Trains, validates and scores at one site.

    Args:
        method: the objective, for example {"path": "fedpartial.methods.condistfl.ConDistFL", "args": {...}}.
        start_from: "global", or "local" for sites that never take over the global model (standalone training).
    """

    def __init__(self, method: Method, start_from: StartFrom = "global"):
        super().__init__()
        check_choice("start_from", start_from, StartFrom, place="args")
        self.method, self.start_from = method, start_from
        self._session: SiteSession | None = None
        self._validation = validation_numbers({})
        self._round = 0
        self._spoke = 0.0
        self._bytes_down: int | None = None

    def initialize(self, parts: dict, fl_ctx: FLContext) -> None:
        self.site = site_name(fl_ctx)
        self.root = Path(job_root(fl_ctx))
        self.config_dir = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir())

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Count what has come before a filter of the job unpacks it."""
        if event_type == EventType.BEFORE_TASK_DATA_FILTER:
            self._bytes_down = message_bytes(fl_ctx.get_prop(FLContextKey.TASK_DATA))

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        return self._guarded(self._train, data, fl_ctx, abort_signal)

    def validate(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        before_training = data.get_header(AppConstants.VALIDATE_TYPE) == ValidateType.BEFORE_TRAIN_VALIDATE
        return self._guarded(self._validate if before_training else self._score, data, fl_ctx, abort_signal)

    def get_model_for_validation(self, model_name: str, fl_ctx: FLContext) -> Shareable:
        """The local model after the latest round."""
        if not (self.root / LOCAL_MODEL).exists():
            return _failed("the site has no local model: it has not finished a round")
        weights, _ = load_model(self.root / LOCAL_MODEL)
        return DXO(data_kind=DataKind.WEIGHTS, data=weights).to_shareable()

    def fine_tune(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Train the private heads after the rounds; the answer is an update without a tensor."""
        return self._guarded(self._fine_tune, data, fl_ctx, abort_signal)

    def collect(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The site's private part, asked for once when training is over."""
        return self._guarded(self._collect, data, fl_ctx, abort_signal)

    def adapt(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Adapt the federated model to the site's data; the models stay here, the answer is numbers."""
        return self._guarded(self._adapt, data, fl_ctx, abort_signal)

    def abort(self, fl_ctx: FLContext) -> None:
        """The abort signal is looked at before every step; there is nothing else to stop."""

    def finalize(self, fl_ctx: FLContext) -> None:
        """Everything worth keeping is on disk already."""

    def _guarded(self, work: Callable, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Run ``work``; whatever goes wrong is written down at the site and nothing is sent."""
        try:
            check_task_code(task, self.site, self.root)
            with needs_space("the job's files", self.root):
                answer = work(task, fl_ctx, abort_signal)
                narrow(answer, plan_of_task(task).wire)
                return answer
        except TrainingStopped as stopped:
            self.log_info(fl_ctx, str(stopped))
            return make_reply(ReturnCode.TASK_ABORTED)
        except EXPECTED_ERRORS as error:
            self._write_down(error, fl_ctx)
            # Not an error, which FLARE can stream to the server, nor an event, which a job can forward to it.
            self.log_warning(fl_ctx, f"site {self.site} stops: {error}", fire_event=False)
            return _failed(public_reason(error))
        except Exception as error:
            self._write_down(error, fl_ctx)
            raise

    def _write_down(self, error: Exception, fl_ctx: FLContext) -> None:
        """Into the site's own file. On a full disk that fails as well, and the server still gets its answer."""
        try:
            write_failure(self.root, self.site, error)
        except OSError as unwritten:
            self.log_warning(fl_ctx, f"{FAILURE_FILE} cannot be written: {unwritten}", fire_event=False)

    def _open(self, task: Shareable, fl_ctx: FLContext) -> SiteSession:
        plan = plan_of_task(task)
        if self._session is None or self._session.plan != plan:
            site = read_site(self.site, self.config_dir)
            state_dir = self._state_dir(plan, fl_ctx)
            self._session = SiteSession(
                site=site,
                plan=plan,
                method=self.method,
                state_dir=state_dir,
                start_from=self.start_from,
                on_step=self._say_step,
            )
            precision = self._session.precision
            self.log_info(fl_ctx, f"{self.site}: {site.source} data, {precision.device}, {precision.name}")
        return self._session

    def _state_dir(self, plan: Plan, fl_ctx: FLContext) -> Path:
        """Where the optimiser's state lies; a continued run takes over what the interrupted job left here."""
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        earlier = [Path(workspace.get_app_dir(job)) / STATE for job in plan.resumed_jobs]
        if place := adopt_states(self.root / STATE, earlier):
            self.log_info(fl_ctx, f"{self.site}: takes over the optimiser of job {place.parents[1].name}")
        return self.root / STATE

    def _say_step(self, step: int, loss: float) -> None:
        if time.monotonic() - self._spoke > SECONDS_BETWEEN_LINES:
            self._spoke = time.monotonic()
            schedule = self._session.trainer.schedule
            in_rounds = self._round < schedule.num_rounds
            place = f"round {self._round + 1}/{schedule.num_rounds}" if in_rounds else "after the rounds"
            place = f"{place} step {step}"
            self.logger.info(f"{self.site}: {place} loss {loss:.3f}")

    def _validate(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Quick Dice of the model that the round starts from, where the plan asks for it; never of initial weights."""
        session = self._open(task, fl_ctx)
        self._validation = validation_numbers({})
        number = task.get_header(AppConstants.CURRENT_ROUND)
        if not session.plan.is_validated(number):
            return make_reply(ReturnCode.EMPTY_RESULT)
        weights = session.starting_weights(weights_of_task(task), number)
        scores = session.validation_scores(weights, lambda: abort_signal.triggered)
        stop_if(abort_signal)
        self._validation = validation_numbers(scores)
        dice = self._validation["val_dice"]
        mean = sum(dice.values()) / max(len(dice), 1)
        return DXO(data_kind=DataKind.METRICS, data={MetaKey.INITIAL_METRICS: {"val_dice": mean}}).to_shareable()

    def _train(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        session = self._open(task, fl_ctx)
        weights = weights_of_task(task)
        self._round = task.get_header(AppConstants.CURRENT_ROUND)
        result = session.train(weights, self._round, lambda: abort_signal.triggered)
        self._write_local_model(session)
        metrics = {**result.metrics, **self._validation, **self._costs(task), **self._facts(session)}
        return update_message(result.update, result.num_steps, metrics)

    def _fine_tune(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        session = self._open(task, fl_ctx)
        self._round = session.plan.num_rounds
        metrics = session.fine_tune(weights_of_task(task), lambda: abort_signal.triggered)
        self._write_local_model(session)
        if "dice_before" in metrics:
            before, after = metrics.pop("dice_before"), metrics.pop("dice_after")
            self.log_info(fl_ctx, f"{self.site}: fine-tuned heads: validation Dice {before:.3f} -> {after:.3f}")
        numbers = {**metrics, **validation_numbers({}), **self._costs(task), **self._facts(session)}
        return update_message({}, session.plan.finetune_steps, numbers)

    def _collect(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        private = self._open(task, fl_ctx).trainer.stored_private_part()
        if not private:
            return _failed("the site has no head to give: it has not finished a round")
        return DXO(data_kind=DataKind.WEIGHTS, data=to_arrays(private)).to_shareable()

    def _adapt(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        session, plan = self._open(task, fl_ctx), AdaptationPlan.from_dict(task.get(ADAPTATION))
        weights, answer = weights_of_task(task), no_scores()
        self._round = session.plan.num_rounds
        for way in plan.ways:
            adapted, validation = session.adapt(weights, way, plan, lambda: abort_signal.triggered)
            info = model_info(session.plan, session.plan.num_rounds, adapted.dice)
            save_model(self.root / ADAPTED_MODEL.format(way), to_arrays(adapted.weights), info)
            add_validation(answer, f"{ADAPTED}{way}", validation)
            self._add_scores(answer, f"{ADAPTED}{way}", adapted.weights, session, fl_ctx, abort_signal)
        return DXO(data_kind=DataKind.METRICS, data={**answer, **self._facts(session)}).to_shareable()

    def _write_local_model(self, session: SiteSession) -> None:
        own = self._facts(session)[ANNOTATED] if self.start_from == "local" else None
        info = model_info(session.plan, min(self._round + 1, session.plan.num_rounds), annotated=own)
        save_model(self.root / LOCAL_MODEL, to_arrays(session.trainer.local_weights()), info)

    def _costs(self, task: Shareable) -> dict:
        return {"bytes_down": message_bytes(task) if self._bytes_down is None else self._bytes_down}

    def _facts(self, session: SiteSession) -> dict:
        training = session.split("training")
        annotated = [name for case in training for name in session.preset.label_space.names(case.labelled)]
        return {
            "device": session.precision.device.type,
            "precision": session.precision.name,
            "source": session.site.source,
            "setup_seconds": session.setup_seconds,
            "num_training": len(training),
            ANNOTATED: dict.fromkeys(annotated, 1),
        }

    def _score(self, task: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Validation Dice of every model in the task and full scores on the site's test cases."""
        session, fusion = self._open(task, fl_ctx), read_fusion(task.get(FUSION, {}))
        answer, taught = no_scores(), task.get(TAUGHT)
        for name, arrays in task[MODELS].items():
            weights = to_tensors(arrays)
            if name in task[VALIDATED] and name in (*GLOBAL_MODELS, f"{LOCAL}{self.site}"):
                add_validation(answer, name, session.validation_scores(weights, lambda: abort_signal.triggered))
            known = taught if name in GLOBAL_MODELS else None
            self._add_scores(answer, name, weights, session, fl_ctx, abort_signal, fusion, known)
        return DXO(data_kind=DataKind.METRICS, data={**answer, **self._facts(session)}).to_shareable()

    def _add_scores(
        self,
        answer: dict[str, dict],
        name: str,
        weights: Mapping[str, Tensor],
        session: SiteSession,
        fl_ctx: FLContext,
        abort_signal: Signal,
        fusion: Fusion = LOG_ODDS,
        taught: Collection[str] | None = None,
    ) -> None:
        """One model's scores on the site's test cases, under its name."""
        from fedpartial.evaluation.overlays import case_mean

        scores = session.score(weights, lambda: abort_signal.triggered, fusion, annotated=taught)
        stop_if(abort_signal)
        answer["testing"][name] = [s.to_dict() for s in scores]
        means = [m for m in map(case_mean, scores) if m is not None]
        self.log_info(fl_ctx, f"{self.site}: model {name!r}: mean Dice {sum(means) / max(len(means), 1):.3f}")


def no_scores() -> dict[str, dict]:
    """An answer to an evaluation, still without a model."""
    return {name: {} for name in (*VALIDATION.values(), "testing")}


def add_validation(answer: dict[str, dict], name: str, scores: Mapping[str, Sequence[float]]) -> None:
    """One model's scores on the site's validation cases, under its name."""
    numbers = validation_numbers(scores)
    for field, by_model in VALIDATION.items():
        answer[by_model][name] = numbers[field]


def validation_numbers(scores: Mapping[str, Sequence[float]]) -> dict[str, dict]:
    """Mean Dice of each class, the number of cases behind it, and of those in which the class was found (Dice above 0).

    The numbers decide whether the mean may leave.
    """
    return {
        "val_dice": mean_dice(scores),
        "val_cases": {name: len(values) for name, values in scores.items()},
        "val_found": {name: sum(value > 0 for value in values) for name, values in scores.items()},
    }


def _failed(reason: str) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.set_header(REASON_HEADER, reason)
    return reply


def stop_if(abort_signal: Signal) -> None:
    """Scores of a part of the cases are no scores."""
    if abort_signal.triggered:
        raise TrainingStopped("stopped while scoring")
