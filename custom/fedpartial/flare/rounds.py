"""The training rounds of every averaging job: FLARE's ScatterAndGather, with what a consortium needs.

ScatterAndGather aggregates whatever it has when sites died or a time-out passed, even less than min_clients,
cuts off everybody slower than the first min_clients, and always starts at the round its JSON names. Here a
round waits for all sites that live, needs min_clients accepted updates, and a run that was interrupted goes
on after its last finished round.
"""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather

from fedpartial.errors import ConfigError
from fedpartial.flare.persistor import GLOBAL_MODEL
from fedpartial.flare.plan import job_root, plan_of_server
from fedpartial.flare.received_arrays import arrays_in_files
from fedpartial.flare.recorder import RunRecorder
from fedpartial.heap import large_blocks_returned

NOTHING_TO_DO = (
    "num_rounds is 0, and there is no model to start from: name one (--start-from MODEL) or train some rounds"
)

PRETRAINING_ALONE = "pretrain_rounds: nothing is aggregated in this job, so no other site would gain by it"


class FederatedRounds(ScatterAndGather):
    """Rounds until num_rounds are finished. In the plan's pretraining rounds only its pretraining sites take part.

    Args:
        min_clients: accepted updates that a round needs (k of n).
        round_timeout: seconds after which a round goes on without the sites that have not answered; 0 waits
            for every site that lives.
    """

    def __init__(
        self,
        min_clients: int,
        num_rounds: int,
        round_timeout: int = 0,
        aggregator_id: str = "aggregator",
        persistor_id: str = "persistor",
        shareable_generator_id: str = "shareable_generator",
        recorder_id: str = "recorder",
        plan_id: str = "plan",
    ):
        super().__init__(
            min_clients=min_clients,
            num_rounds=num_rounds,
            train_timeout=round_timeout,
            wait_time_after_min_received=0,
            ignore_result_error=True,  # judged here, with the reasons
            aggregator_id=aggregator_id,
            persistor_id=persistor_id,
            shareable_generator_id=shareable_generator_id,
            snapshot_every_n_rounds=0,
        )
        self.recorder_id, self.plan_id = recorder_id, plan_id
        self._total_rounds = num_rounds
        self._asked: list[str] = []
        self._accepted: set[str] = set()
        self._refused: set[str] = set()
        self._waiting = False

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Go on after the finished rounds of an interrupted run."""
        self._plan = plan_of_server(fl_ctx, self.plan_id).plan
        persistor = self._engine.get_component(self.persistor_id)
        try:
            self._start_round = persistor.finished_rounds(fl_ctx)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)
            return
        if not self._total_rounds and not persistor.start_from:
            self.system_panic(NOTHING_TO_DO, fl_ctx)
            return
        if self._plan.pretrain_rounds and persistor.standalone(fl_ctx):
            self.system_panic(PRETRAINING_ALONE, fl_ctx)
            return
        self._num_rounds = self._total_rounds - self._start_round
        self._recorder().silence.listen(self.communicator)
        super().start_controller(fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        if not self._total_rounds and not abort_signal.triggered:  # start_controller may have stopped the job
            weights = self._global_weights[ModelLearnableKey.WEIGHTS]
            self.persistor.write(GLOBAL_MODEL, weights, 0, None, fl_ctx)
        with large_blocks_returned(), arrays_in_files(Path(job_root(fl_ctx))):
            super().control_flow(abort_signal, fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Leave word of the sites reported dead: the next workflow has a communicator of its own, and FLARE reports a
        site whose parent process died only once."""
        super().stop_controller(fl_ctx)
        reported = getattr(self.communicator, "_dead_clients", {})  # FLARE has no public name for it
        self._recorder().suspects = [client.name for client in self._engine.get_clients() if client.name in reported]

    def _recorder(self) -> RunRecorder:
        recorder = self._engine.get_component(self.recorder_id)
        if not isinstance(recorder, RunRecorder):
            raise TypeError(f"component {self.recorder_id!r}: got {type(recorder).__name__}; expected a RunRecorder")
        return recorder

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Say by name that too few sites are left, before FLARE stops the job without a name."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.CLIENT_DISCONNECTED and self._waiting:
            self._check_reachable(fl_ctx)

    def living(self) -> list[Client]:
        """The sites of the job that are not known to be gone."""
        return [client for client in self._engine.get_clients() if not self.get_client_disconnect_time(client.name)]

    @property
    def _pretraining(self) -> bool:
        return self._plan.is_pretraining(self._current_round)

    @property
    def _needed(self) -> int:
        """Accepted updates without which this round fails."""
        return len(self._plan.pretrain_sites) if self._pretraining else self._min_clients

    def _expected(self) -> set[str]:
        """Names of the sites that take part in this round when nothing is wrong."""
        if self._pretraining:
            return set(self._plan.pretrain_sites)
        return {client.name for client in self._engine.get_clients()}

    def broadcast_and_wait(self, task, fl_ctx, targets=None, min_responses=0, **options) -> None:
        """Ask the living sites of this round and wait for all of them; too few updates end the job."""
        sites = [site for site in self.living() if site.name in self._expected()]
        self._asked, self._accepted, self._refused = [site.name for site in sites], set(), set()
        if len(sites) < self._needed:
            self._stop(set(), fl_ctx)
            return
        options["wait_time_after_min_received"] = 0
        self._waiting = True
        with self._recorder().silence.watched(self.communicator, self._engine):
            super().broadcast_and_wait(task=task, fl_ctx=fl_ctx, targets=sites, min_responses=len(sites), **options)
        self._waiting = False
        if len(self._accepted) < self._needed and not options["abort_signal"].triggered:
            self._stop(set(self._asked) - self._accepted, fl_ctx)

    def _accept_train_result(
        self, client_name: str, result: Shareable, fl_ctx: FLContext, is_unknown_task: bool = False
    ) -> bool:
        """Count the answers; the job ends as soon as min_clients updates cannot be reached."""
        accepted = super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task)
        (self._accepted if accepted else self._refused).add(client_name)
        self._check_reachable(fl_ctx)
        return accepted

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """An answer after its round has ended. ScatterAndGather would add it to whatever is aggregated just then."""
        self.log_warning(fl_ctx, f"the answer of {client.name} to a round that is over is left out")

    def _check_reachable(self, fl_ctx: FLContext) -> None:
        """End the job when too few of the asked sites can still give an update."""
        awaited = {client.name for client in self.living()} & set(self._asked) - self._refused
        if len(self._accepted | awaited) < self._needed:
            self._stop(self._refused, fl_ctx)

    def _stop(self, silent: set[str], fl_ctx: FLContext) -> None:
        """End the job; the reason names every site that is missing and why."""
        known = self._recorder().failures
        living = {client.name for client in self.living()}
        gone = self._expected() - (set(self._asked) & living) - self._accepted
        absent = self._expected() - {client.name for client in self._engine.get_clients()}
        reasons = dict.fromkeys(silent, "no answer") | dict.fromkeys(gone, "gone")
        reasons |= dict.fromkeys(absent, "takes no part in this job, and the plan's pretrain_sites name it") | known
        why = "; ".join(f"{name}: {reasons[name]}" for name in sorted(gone | silent))
        self.system_panic(
            f"round {self._current_round + 1} needs {self._needed} update(s) and cannot get them. {why}. "
            "Finished rounds are kept: see 'fedpartial resume'.",
            fl_ctx,
        )
