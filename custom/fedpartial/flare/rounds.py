"""The training rounds of every averaging job: FLARE's ScatterAndGather, with what a consortium needs.

ScatterAndGather aggregates whatever it has when sites died or a time-out passed, even less than min_clients,
cuts off everybody slower than the first min_clients, and always starts at the round its JSON names. Here a
round waits for all sites that live, needs min_clients accepted updates, and a run that was interrupted goes
on after its last finished round.
"""

from __future__ import annotations

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather

from fedpartial.errors import ConfigError
from fedpartial.flare.recorder import RunRecorder


class FederatedRounds(ScatterAndGather):
    """Rounds until num_rounds are finished.

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
    ):
        super().__init__(
            min_clients=min_clients,
            num_rounds=num_rounds,
            train_timeout=round_timeout,
            wait_time_after_min_received=0,
            aggregator_id=aggregator_id,
            persistor_id=persistor_id,
            shareable_generator_id=shareable_generator_id,
            snapshot_every_n_rounds=0,
        )
        self.recorder_id = recorder_id
        self._total_rounds = num_rounds
        self._accepted: set[str] = set()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Go on after the finished rounds of an interrupted run."""
        try:
            self._start_round = self._engine.get_component(self.persistor_id).finished_rounds(fl_ctx)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)
            return
        self._num_rounds = self._total_rounds - self._start_round
        super().start_controller(fl_ctx)

    def living(self) -> list[Client]:
        """The sites that take part and are not known to be gone."""
        return [client for client in self._engine.get_clients() if not self.get_client_disconnect_time(client.name)]

    def broadcast_and_wait(self, task, fl_ctx, targets=None, min_responses=0, **options) -> None:
        """Ask the living sites and wait for all of them; less than min_clients updates end the job."""
        sites = self.living()
        self._accepted, self._current_num_targets = set(), len(sites)
        if len(sites) >= self._min_clients:
            options["wait_time_after_min_received"] = 0
            super().broadcast_and_wait(task=task, fl_ctx=fl_ctx, targets=sites, min_responses=len(sites), **options)
        if len(self._accepted) < self._min_clients and not options["abort_signal"].triggered:
            self.system_panic(self._too_few(sites), fl_ctx)

    def _too_few(self, asked: list[Client]) -> str:
        recorder = self._engine.get_component(self.recorder_id)
        reasons = recorder.failures if isinstance(recorder, RunRecorder) else {}
        absent = sorted({client.name for client in self._engine.get_clients()} - self._accepted)
        known = {client.name for client in asked}
        why = (f"{name} ({reasons.get(name, 'no answer' if name in known else 'gone')})" for name in absent)
        return (
            f"round {self._current_round + 1} got {len(self._accepted)} update(s) and needs {self._min_clients}; "
            f"without: {', '.join(why)}. The finished rounds are kept: continue with 'fedpartial resume'."
        )

    def _accept_train_result(
        self, client_name: str, result: Shareable, fl_ctx: FLContext, is_unknown_task: bool = False
    ) -> bool:
        accepted = super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task)
        if accepted:
            self._accepted.add(client_name)
        return accepted
