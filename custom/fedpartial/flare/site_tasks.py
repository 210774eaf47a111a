"""A workflow after the rounds that asks every living site once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedpartial.errors import ConfigError
from fedpartial.flare.plan import plan_of_server


class SiteTasks(Controller):
    """What such workflows have in common.

    Args:
        timeout: seconds a site may take for one task; 0 waits.
    """

    def __init__(self, timeout: int, plan_id: str, persistor_id: str, recorder_id: str):
        super().__init__()
        self.timeout = timeout
        self.plan_id, self.persistor_id, self.recorder_id = plan_id, persistor_id, recorder_id

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.recorder = self._engine.get_component(self.recorder_id)
        self.plan = plan_of_server(fl_ctx, self.plan_id)
        self.persistor = self._engine.get_component(self.persistor_id)
        self.recorder.silence.listen(self.communicator)
        for site in self.recorder.suspects:
            if site not in self.recorder.gone:  # it may live, and then it asks for its task within the grace period
                self.communicator.process_dead_client_report(site, fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.cancel_all_tasks(fl_ctx=fl_ctx)

    def ask(
        self,
        name: str,
        data: Shareable,
        received: Callable,
        abort_signal: Signal,
        fl_ctx: FLContext,
        *,
        without: Collection[str] = (),
    ) -> None:
        """Send one task to every living site and wait for all; ``received(client_task, fl_ctx)`` takes each answer.

        without: sites that are not asked. A model that the plan's wire cannot hold ends the job.
        """
        try:
            self.plan.attach(data)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)
            return
        clients = [client for client in self.living() if client.name not in without]
        task = Task(name=name, data=data, result_received_cb=received, timeout=self.timeout)
        with self.watched():
            self.broadcast_and_wait(
                task, fl_ctx, targets=clients, min_responses=len(clients), abort_signal=abort_signal
            )

    def watched(self) -> AbstractContextManager:
        """Notice sites that fall silent while a workflow waits for answers."""
        return self.recorder.silence.watched(self.communicator, self._engine)

    def living(self) -> list[Client]:
        """The sites of the job that are not known to be gone."""
        return [client for client in self._engine.get_clients() if not self.is_gone(client.name)]

    def is_gone(self, site: str) -> bool:
        return site in self.recorder.gone or bool(self.get_client_disconnect_time(site))

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.log_warning(fl_ctx, f"late answer of {client.name} to {task_name} is left out")
