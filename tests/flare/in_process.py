"""FLARE's real workflows, executors, filters and messages in one process: only the network between them is missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.wf_comm_spec import WFCommSpec
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.learner_executor import LearnerExecutor
from nvflare.fuel.utils import fobs

from federation import tiny_plan
from fedpartial.flare.aggregator import SiteMean
from fedpartial.flare.final_evaluation import FinalEvaluation
from fedpartial.flare.learner import SiteLearner
from fedpartial.flare.persistor import GlobalModelFile
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.recorder import RunRecorder
from fedpartial.flare.rounds import FederatedRounds
from fedpartial.flare.update_guard import UpdateGuard
from fedpartial.sites import SiteConfig
from fedpartial.training.local_trainer import StartFrom


def on_the_wire(message: Shareable) -> Shareable:
    """The message as the other end gets it."""
    return fobs.loads(fobs.dumps(message))


def workspace(root: Path, name: str) -> Workspace:
    for folder in ("startup", "local/sites"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return Workspace(str(root), name)


@dataclass
class Engine:
    """What components ask of FLARE's engine."""

    components: dict[str, FLComponent]
    sites: tuple[str, ...] = ()
    workflows: list[Controller] = field(default_factory=list)
    signal: Signal = field(default_factory=Signal)

    def get_component(self, name: str) -> FLComponent | None:
        return self.components.get(name)

    def get_all_components(self) -> dict[str, FLComponent]:
        return self.components

    def get_clients(self) -> list[Client]:
        return [Client(name, "") for name in self.sites]

    def fire_event(self, event: str, fl_ctx: FLContext) -> None:
        for component in [*self.components.values(), *self.workflows]:
            component.handle_event(event, fl_ctx)
        if event == EventType.FATAL_SYSTEM_ERROR:  # as FLARE's ServerRunner does
            self.signal.trigger("panic")


def context(engine: Engine, name: str, root: Path) -> FLContext:
    """A context of the place ``name`` whose workspace and job folder lie under ``root``."""
    fl_ctx = FLContextManager(engine, name, "job").new_context()
    (root / "app").mkdir(parents=True, exist_ok=True)
    fl_ctx.set_prop(FLContextKey.APP_ROOT, str(root / "app"), private=True, sticky=False)
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace(root, name), private=True, sticky=False)
    return fl_ctx


def peer(name: str, sent: Shareable | None = None) -> FLContext:
    """What the server knows of a site while it handles its message."""
    fl_ctx = FLContextManager(None, name, "job").new_context()
    fl_ctx.set_prop(FLContextKey.SHAREABLE, sent, private=True, sticky=False)
    return fl_ctx


class Hospital:
    """A site: a LearnerExecutor around a SiteLearner. ``lasting`` False is a new process for every task."""

    def __init__(
        self, config: SiteConfig, method, root: Path, *, lasting: bool = True, start_from: StartFrom = "global"
    ):
        self.name, self.root, self.method, self.lasting = config.name, root, method, lasting
        self.start_from = start_from
        workspace(root, self.name)
        values = {
            "labels": {str(raw): name for raw, name in config.labels.items()},
            "data_root": str(config.data_root),
            "device": config.device,
            "cache_dir": str(config.cache_dir),
        }
        (root / "local" / "sites" / f"{self.name}.json").write_text(json.dumps(values))
        self.executor: LearnerExecutor | None = None

    @property
    def app(self) -> Path:
        return self.root / "app"

    def execute(self, task_name: str, task: Shareable, signal: Signal | None = None) -> Shareable:
        if self.executor is None or not self.lasting:
            self.executor = LearnerExecutor("learner")
            learner = SiteLearner(self.method, self.start_from)
            self.fl_ctx = context(Engine({"learner": learner}), self.name, self.root)
        return self.executor.execute(task_name, task, self.fl_ctx, signal or Signal())


class InProcess(WFCommSpec):
    """Sends tasks to hospitals one after the other; answers pass FLARE's events and the job's filters.

    late: what a site waits for, in a thread of its own, before it works on a task of ``broadcast``; after False it does
        not. asked: task and site of every task that was sent. tasks: the latest of every name.
    """

    def __init__(self, hospitals: dict[str, Hospital], filters: dict[str, list[Filter]]):
        self.hospitals, self.filters = hospitals, filters
        self.gone: set[str] = set()
        self.late: dict[str, Callable[[], object]] = {}
        self.threads: dict[str, threading.Thread] = {}
        self.asked: list[tuple[str, str]] = []
        self.tasks: dict[str, Task] = {}

    def get_client_disconnect_time(self, client_name: str) -> float | None:
        return 1.0 if client_name in self.gone else None

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets=None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> None:
        for client in targets or fl_ctx.get_engine().get_clients():
            if abort_signal is not None and abort_signal.triggered:
                return
            self.work(client, task, fl_ctx, abort_signal)

    def broadcast(
        self, task: Task, fl_ctx: FLContext, targets=None, min_responses: int = 0, wait_time_after_min_received: int = 0
    ) -> None:
        """Without waiting for the sites of ``late``; the others have answered when it returns."""
        for client in targets or fl_ctx.get_engine().get_clients():
            arguments = (client, task, fl_ctx.clone(), fl_ctx.get_engine().signal)
            if client.name in self.late:
                self.threads[client.name] = threading.Thread(target=self._work_late, args=arguments, daemon=True)
                self.threads[client.name].start()
            else:
                self.work(*arguments)

    def _work_late(self, client: Client, *arguments) -> None:
        if self.late[client.name]() is not False:
            self.work(client, *arguments)

    def work(self, client: Client, task: Task, fl_ctx: FLContext, signal: Signal | None) -> None:
        """One site's whole task, there and back."""
        self.asked.append((task.name, client.name))
        self.tasks[task.name] = task
        client_task = ClientTask(client, task)
        if task.before_task_sent_cb:
            task.before_task_sent_cb(client_task, fl_ctx)
        received = on_the_wire(task.data)
        answer = self._execute(client.name, task.name, received, signal)
        answer.set_cookie_jar(received.get_cookie_jar())
        client_task.result = self._filtered(client.name, task.name, on_the_wire(answer), fl_ctx)
        task.result_received_cb(client_task, fl_ctx)

    def _execute(self, site: str, task_name: str, task: Shareable, signal: Signal | None) -> Shareable:
        try:
            return self.hospitals[site].execute(task_name, task, signal)
        except Exception:  # noqa: BLE001 (as FLARE's ClientRunner does)
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def _filtered(self, site: str, task_name: str, answer: Shareable, fl_ctx: FLContext) -> Shareable:
        fl_ctx.set_peer_context(peer(site, answer))
        fl_ctx.get_engine().fire_event(EventType.BEFORE_TASK_RESULT_FILTER, fl_ctx)
        try:
            for one in self.filters.get(task_name, []):
                answer = one.process(answer, fl_ctx)
        except Exception:  # noqa: BLE001 (as FLARE's ServerRunner does)
            answer = make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        fl_ctx.get_engine().fire_event(EventType.AFTER_TASK_RESULT_FILTER, fl_ctx)
        return answer

    def cancel_all_tasks(self, *_, **__) -> None:
        """Nothing waits."""


class Server:
    """The server of a job with the components of jobs/fedavg."""

    def __init__(self, root: Path, hospitals: dict[str, Hospital], generator: FLComponent, **plan):
        self.root, self.app = root, root / "app"
        self.plan = tiny_plan(**plan)
        self.engine = Engine(
            {
                "plan": RunPlan(**self.plan.to_dict()),
                "persistor": GlobalModelFile(),
                "aggregator": SiteMean(),
                "shareable_generator": generator,
                "recorder": RunRecorder(),
            },
            tuple(hospitals),
        )
        self.fl_ctx = context(self.engine, "server", root)
        self.link = InProcess(hospitals, {AppConstants.TASK_TRAIN: [UpdateGuard()]})

    def run(self, *, min_clients: int | None = None, evaluate: bool = True) -> None:
        """The workflows of a job, one after the other, until the engine's signal is triggered."""
        rounds = FederatedRounds(min_clients=min_clients or len(self.engine.sites), num_rounds=self.plan.num_rounds)
        self.engine.workflows += [rounds, *([FinalEvaluation()] if evaluate else [])]
        self.engine.fire_event(EventType.START_RUN, self.fl_ctx)
        for workflow in self.engine.workflows:
            if self.engine.signal.triggered:
                return
            workflow.set_communicator(self.link)
            workflow.initialize(self.fl_ctx)
            workflow.control_flow(self.engine.signal, self.fl_ctx)

    def progress(self) -> list[dict]:
        return [json.loads(line) for line in (self.app / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
