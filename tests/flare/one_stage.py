"""A federation of MMDS in one process: what outlives its jobs, and a new server and new sites for every stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from in_process import Engine, Hospital, InProcess, Server, context
from nvflare.apis.event_type import EventType
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.utils import fobs

from fedpartial.distillation import probabilities
from fedpartial.distillation.student import Student
from fedpartial.evaluation import page
from fedpartial.flare.final_evaluation import FinalEvaluation
from fedpartial.flare.leaving import walk
from fedpartial.flare.lone_learner import LoneLearner
from fedpartial.flare.persistor import GLOBAL_MODEL, GlobalModelFile
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.recorder import RunRecorder
from fedpartial.flare.single_round import SingleRound
from fedpartial.flare.site_executor import SiteExecutor
from fedpartial.methods.mmds import Mmds
from fedpartial.server.model_store import ModelStore
from fedpartial.sites import HOME_VARIABLE, SiteConfig
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.model_file import load_model
from fedpartial.training.own_models import OwnModels
from one_round import FEDERATION, public_file, stage_plan


@dataclass(frozen=True, kw_only=True)
class Message:
    """One task of a site as it was on the wire, there and back."""

    task: str
    sent: bytes
    answered: bytes

    def tensors(self) -> tuple[list[str], list[str]]:
        """Names of all arrays that went down and up."""
        return _tensor_names(self.sent), _tensor_names(self.answered)


def _tensor_names(message: bytes) -> list[str]:
    return [path[-1] for path, value in walk(fobs.loads(message)) if isinstance(value, np.ndarray)]


class StageHospital(Hospital):
    """A site of a stage, which keeps all its messages. ``lasting`` False is a new process for every task."""

    messages: tuple[Message, ...] = ()

    def execute(self, task_name: str, task: Shareable, signal: Signal | None = None) -> Shareable:
        if self.executor is None or not self.lasting:
            self.executor = SiteExecutor("learner")
            self.fl_ctx = context(Engine({"learner": LoneLearner(self.method)}), self.name, self.root)
        sent = fobs.dumps(task)
        answer = self.executor.execute(task_name, task, self.fl_ctx, signal or Signal())
        self.messages += (Message(task=task_name, sent=sent, answered=fobs.dumps(answer)),)
        return answer


class StageServer(Server):
    """The server of one job with the components and workflows of jobs/mmds."""

    def __init__(self, root: Path, hospitals: dict, home: Path, public: Path, **plan):
        self.root, self.app, self.home = root, root / "app", home
        self.plan = stage_plan(**plan)
        self.engine = Engine(
            {
                "plan": RunPlan(**self.plan.to_dict()),
                "persistor": GlobalModelFile(generator_id=""),
                "recorder": RunRecorder(),
            },
            tuple(hospitals),
        )
        self.fl_ctx = context(self.engine, "server", root)
        self.link = InProcess(hospitals, {})
        public_file(root / "local", public)

    def run(self, *, evaluate: bool = True, drawn: bool = False, **single_round) -> StageServer:
        """Both workflows, as SingleRound's arguments say; by default every site has to upload."""
        given = {"min_clients": len(self.engine.sites), "distil_steps": 3, **single_round}
        final = [FinalEvaluation(cross_site=False, scored=True)] if evaluate else []
        with self.at_home(), pytest.MonkeyPatch.context() as quick:
            quick.setattr("fedpartial.flare.uploads.LOOK_SECONDS", 0.01)
            if not drawn:
                quick.setattr(page, "_figures", lambda *_: {})
            self._run([SingleRound(**given), *final])
        return self

    def _run(self, workflows: list[Controller]) -> None:
        self.engine.workflows += workflows
        self.engine.fire_event(EventType.START_RUN, self.fl_ctx)
        for workflow in workflows:
            if self.engine.signal.triggered:
                return
            workflow.set_communicator(self.link)
            workflow.initialize(self.fl_ctx)
            workflow.control_flow(self.engine.signal, self.fl_ctx)

    @contextmanager
    def at_home(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(HOME_VARIABLE, str(self.home))
            yield

    def told(self, event: str) -> list[dict]:
        """The lines of the progress file about one kind of event."""
        return [line for line in self.progress() if line["event"] == event]

    @property
    def panics(self) -> list[str]:
        return [line["reason"] for line in self.told("panic")]

    @property
    def failures(self) -> dict[str, str]:
        return {line["site"]: line["reason"] for line in self.told("failure")}

    @property
    def notes(self) -> list[str]:
        return self.engine.components["recorder"].history.notes

    def report(self) -> dict:
        return json.loads((self.app / "report.json").read_text(encoding="utf-8"))

    def written_model(self) -> dict[str, np.ndarray]:
        """The global model in the job's folder."""
        return load_model(self.app / GLOBAL_MODEL)[0]


class Federation:
    """Hospitals, home folders and store; ``stage("liver", "spleen", name="stage1")`` is a job."""

    def __init__(self, sites: dict[str, SiteConfig], root: Path, home: Path | None = None):
        self.sites, self.root, self.home = sites, root, home or root / "home"
        self.public = sites["liver"].data_root.parent / "public"

    def stage(self, *names: str, name: str = "stage", lasting: bool = True, method=None, **plan) -> StageServer:
        """A job with these sites only; nothing has run yet."""
        folder = self.root / name
        options = {"lasting": lasting}
        hospitals = {n: StageHospital(self.sites[n], method or Mmds(), folder / "sites" / n, **options) for n in names}
        return StageServer(folder / "server", hospitals, self.home, self.public, job=name, **plan)

    def copied(self, root: Path, **sites: SiteConfig) -> Federation:
        """The same federation in a home of its own, maybe with other sites of these names."""
        shutil.copytree(self.home, root / "home", dirs_exist_ok=True)
        return Federation({**self.sites, **sites}, root)

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.home / "store" / FEDERATION)

    def own(self, site: str) -> OwnModels:
        """What a site keeps."""
        return OwnModels(self.home / "sites", FEDERATION, site)

    def versions(self) -> dict[str, int]:
        """The version in use of every site's model."""
        return {name: entry.version for name, entry in self.store.sites().items()}

    def global_model(self) -> dict[str, np.ndarray]:
        return self.store.load(self.store.latest_global())


def trained_federation(sites: dict[str, SiteConfig], root: Path) -> Federation:
    """All sites have their local models, and the store knows none of them."""
    federation = Federation(sites, root)
    federation.stage(*sites, name="before").run(distil_steps=0, evaluate=False)
    shutil.rmtree(federation.home / "store")
    return federation


def nothing_is_computed(monkeypatch: pytest.MonkeyPatch, *, distilled: bool = False) -> None:
    """A step of training, at a site or of the server, and an inference for distillation fail the test.

    distilled: the server may take steps.
    """

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(LocalTrainer, "run_steps", refuse)
    if not distilled:
        monkeypatch.setattr(Student, "_step", refuse)
    monkeypatch.setattr(probabilities, "infer", refuse)
