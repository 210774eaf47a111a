"""Follows a run on the server: progress lines, model selection, and the history for the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.widgets.widget import Widget

from fedpartial.errors import ConfigError
from fedpartial.evaluation.formats import rough_duration
from fedpartial.flare.exchange_watch import ExchangeWatch
from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.persistor import BEST_MODEL
from fedpartial.flare.plan import job_root, plan_of_server, site_name
from fedpartial.flare.progress import ProgressFile
from fedpartial.flare.silence import SilentSites
from fedpartial.flare.weights import METRICS, message_bytes
from fedpartial.server.run_history import RunHistory
from fedpartial.training.local_trainer import FRESH
from fedpartial.training.plan import Plan

GONE = "its job process is gone"


class RunRecorder(Widget):
    """Scores the model at the start of each round, as IntimeModelSelector does, but in a fixed order of
    sites and with the mean over classes; FinalEvaluation adds the score of the last aggregate."""

    def __init__(self, plan_id: str = "plan", persistor_id: str = "persistor"):
        super().__init__()
        self.plan_id, self.persistor_id = plan_id, persistor_id
        self.history: RunHistory | None = None
        self.adapted: dict[str, Mapping] = {}  # the sites' answers to adaptation, for the report
        self.failures: dict[str, str] = {}
        self.gone: set[str] = set()
        self._arrived: dict[str, int] = {}
        self.suspects: list[str] = []
        self.silence = SilentSites()
        self._handlers = {
            EventType.START_RUN: self._start,
            AppEventType.ROUND_STARTED: self._round_started,
            AppEventType.AFTER_CONTRIBUTION_ACCEPT: self._update_received,
            AppEventType.BEFORE_AGGREGATION: self._score_incoming_model,
            AppEventType.ROUND_DONE: self._round_done,
            EventType.BEFORE_TASK_RESULT_FILTER: self._look_at_answer,
            EventType.CLIENT_DISCONNECTED: self._site_gone,
            EventType.CLIENT_RECONNECTED: self._site_back,
            EventType.FATAL_SYSTEM_ERROR: self._note_panic,
        }

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if handler := self._handlers.get(event_type):
            handler(fl_ctx)

    def _start(self, fl_ctx: FLContext) -> None:
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        self.persistor = fl_ctx.get_engine().get_component(self.persistor_id)
        self.history = self._first_history(plan, fl_ctx)
        self.persistor.history = self.history
        self.exchange = ExchangeWatch(plan, self.history, standalone=self.persistor.standalone(fl_ctx))
        self.progress = ProgressFile(Path(job_root(fl_ctx)))
        self.num_sites = len(fl_ctx.get_engine().get_clients())
        self.progress.write("plan", sites=self.num_sites, finished_rounds=len(self.history.rounds), **plan.to_dict())

    def _first_history(self, plan: Plan, fl_ctx: FLContext) -> RunHistory:
        try:
            state = self.persistor.resumed(fl_ctx)
        except ConfigError:
            state = None  # FederatedRounds stops the job with this error; an event handler cannot
        return RunHistory.from_dict(plan.num_rounds, state.history) if state else RunHistory(plan.num_rounds)

    def _round_started(self, fl_ctx: FLContext) -> None:
        self.num_sites = len(fl_ctx.get_engine().get_clients())
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        self.history.start_round(number)
        self._say_phase(plan_of_server(fl_ctx, self.plan_id).plan, number)
        self._end_if(self.exchange.round_started(fl_ctx), fl_ctx)

    def _say_phase(self, plan: Plan, number: int) -> None:
        if plan.pretrain_rounds and number in (0, plan.pretrain_rounds):
            name = f"pretraining at {', '.join(plan.pretrain_sites)}" if number == 0 else "federated rounds"
            self.progress.write("phase", name=name)

    def _end_if(self, fault: str | None, fl_ctx: FLContext) -> bool:
        """End the run when the exchange is not what it claims to be."""
        if fault:
            self.system_panic(fault, fl_ctx)
        return fault is not None

    def _update_received(self, fl_ctx: FLContext) -> None:
        if not fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED):
            return
        site = site_name(fl_ctx.get_peer_context())
        self.failures.pop(site, None)  # of an earlier round
        dxo = from_shareable(fl_ctx.get_prop(AppConstants.TRAINING_RESULT))
        metrics = dxo.get_meta_prop(METRICS)
        bytes_up = self._arrived.pop(site, message_bytes(dxo.data))
        self.history.add_update(site, metrics, bytes_up)
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1
        scores = list(metrics["val_dice"].values())
        dice = sum(scores) / len(scores) if scores else None
        plan = plan_of_server(fl_ctx, self.plan_id).plan
        skipped = plan.pretrain_rounds * max(self.num_sites - len(plan.pretrain_sites), 0)
        left = self.history.remaining_seconds(self.num_sites, skipped)
        self._look_at_optimizer(site, metrics["optimizer_round"], plan, fl_ctx)
        self.progress.write(
            "update",
            round=number,
            site=site,
            loss=metrics["loss"],
            val_dice=dice,
            seconds=metrics["seconds"],
            bytes_up=bytes_up,
            bytes_down=metrics["bytes_down"],
            remaining_seconds=left,
        )
        before = "" if dice is None else f", Dice before this round {dice:.3f}"
        self.log_info(
            fl_ctx,
            f"round {number}/{self.history.num_rounds} {site}: loss {metrics['loss']:.3f}{before}, "
            f"{rough_duration(metrics['seconds'])}; about {rough_duration(left)} left",
        )
        self._end_if(self.exchange.update_received(site, dxo.data, metrics, bytes_up, fl_ctx), fl_ctx)

    def _look_at_optimizer(self, site: str, left_by: int, plan: Plan, fl_ctx: FLContext) -> None:
        """A site that missed rounds, or lost its state, does not train as if nothing had happened: say so."""
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        if left_by == (FRESH if plan.schedule.starts_anew(number, number - 1) else number - 1):
            return
        heads = " and heads" if plan.private_heads else ""
        state = f"a fresh optimiser{heads}" if left_by == FRESH else f"the optimiser{heads} of round {left_by + 1}"
        self.log_warning(fl_ctx, f"site {site} trains with {state}")
        self.progress.write("optimizer", site=site, state=state)

    def _score_incoming_model(self, fl_ctx: FLContext) -> None:
        """Runs before aggregation, while GLOBAL_MODEL is still the model the round started from.

        What only the pretraining sites have scored is not compared with what all have scored."""
        dice = self.history.score_incoming()
        finished = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        if plan_of_server(fl_ctx, self.plan_id).plan.is_pretraining(finished):
            return
        if self.persistor.selects_rounds(fl_ctx) and self.history.is_best(dice, finished):
            weights = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS]
            self.persistor.write(BEST_MODEL, weights, finished, dice, fl_ctx)
            self.log_info(fl_ctx, f"best model so far: after round {finished}, validation Dice {dice:.3f}")

    def _round_done(self, fl_ctx: FLContext) -> None:
        seconds = self.history.finish_round()
        if self._end_if(self.exchange.round_done(fl_ctx), fl_ctx):
            return  # a continued run begins this round again
        self.persistor.save_run_state(self.history, fl_ctx)
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1
        previous = self.history.rounds[-2].val_dice if number > 1 and len(self.history.rounds) > 1 else None
        self.progress.write("round", round=number, seconds=seconds, previous_val_dice=previous)

    def _look_at_answer(self, fl_ctx: FLContext) -> None:
        """Count an answer's bytes before the job's filters unpack it. If it is an error, say which and why:
        ScatterAndGather only knows the return code."""
        peer = fl_ctx.get_peer_context()
        result = peer.get_prop(FLContextKey.SHAREABLE) if peer else None
        if not isinstance(result, Shareable) or result.get_return_code() == ReturnCode.EMPTY_RESULT:
            return
        site = site_name(peer)
        self._arrived[site] = message_bytes(result)
        if result.get_return_code() == ReturnCode.OK:
            return
        reason = result.get_header(REASON_HEADER) or result.get_return_code()
        self.note_failure(site, str(reason), fl_ctx)

    def note_failure(self, site: str, reason: str, fl_ctx: FLContext) -> None:
        """Say which site failed and why, in the log and in the progress file."""
        self.failures[site] = reason
        self.log_error(fl_ctx, f"site {site} failed: {reason}")
        self.progress.write("failure", site=site, reason=reason)

    def _site_gone(self, fl_ctx: FLContext) -> None:
        """FLARE has not heard of a site's job process for its grace period. Every workflow says so once more."""
        site = fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)
        if site in self.gone:
            return
        self.gone.add(site)
        self.failures[site] = GONE
        self.log_warning(fl_ctx, f"site {site} is gone: nothing was heard of its job process")
        self.progress.write("gone", site=site)

    def _site_back(self, fl_ctx: FLContext) -> None:
        site = fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME)
        self.gone.discard(site)
        self.failures.pop(site, None)
        self.log_info(fl_ctx, f"site {site} is back")
        self.progress.write("back", site=site)

    def _note_panic(self, fl_ctx: FLContext) -> None:
        reason = fl_ctx.get_prop(FLContextKey.EVENT_DATA) or "the server stopped the job"
        ProgressFile(Path(job_root(fl_ctx))).write("panic", reason=str(reason))  # it may come before _start
