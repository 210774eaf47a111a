"""A site under its shipped privacy policy: FLARE's own reading of privacy.json, deployer, runner and filters."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

from in_process import Engine
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter
from nvflare.private.fed.utils.app_deployer import AppDeployer
from nvflare.private.fed.utils.fed_utils import create_job_processing_context_properties
from nvflare.private.privacy_manager import PrivacyService

POLICY = Path(__file__).parents[2] / "provision" / "policy"
JOB = "00000000-0000-0000-0000-000000000001"
SITE = "liver"


class Says(Executor):
    """An executor that answers every task with ``answer(task)``: what hostile code could send at most."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        return self.answer(task_name, shareable) if callable(self.answer) else self.answer


class RunningEngine(Engine):
    """The part of a client's engine that the runner asks for at its start."""

    def register_aux_message_handler(self, *_, **__) -> None:
        """There is no network."""


class PolicedSite:
    """One hospital with the policy of provision/policy/<name>; use it while the fixture's PrivacyService is its own."""

    def __init__(self, root: Path, policy: str = "site"):
        for folder in ("startup", "local"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(POLICY / policy / "privacy.json", root / "local" / "privacy.json")
        self.workspace = Workspace(str(root), SITE)
        PrivacyService.initialize(create_privacy_manager(self.workspace, names_only=False))

    def deploy(self, **meta) -> str:
        """FLARE's deployment of a job with this meta.json; an error message, or ''."""
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("config/config_fed_client.json", json.dumps({"format_version": 2}))
        return AppDeployer().deploy(self.workspace, JOB, {"name": "job", **meta}, "app", data.getvalue(), None) or ""

    def run(self, task_name: str, task: Shareable, executor: Executor, job_filters: dict | None = None) -> Shareable:
        """The answer to one task of the deployed job as it leaves the site (ClientRunner, site's and job's filters)."""
        router = TaskRouter()
        router.add_executor(["*"], executor)
        config = ClientRunnerConfig(router, task_data_filters={}, task_result_filters=job_filters or {})
        engine = RunningEngine({})
        runner = ClientRunner({}, config, JOB, engine)
        return runner._process_task(TaskAssignment(task_name, "id", task), self._context(engine))

    def _context(self, engine: Engine) -> FLContext:
        fl_ctx = FLContextManager(engine, SITE, JOB).new_context()
        for key, value in create_job_processing_context_properties(self.workspace, JOB).items():
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, self.workspace, private=True, sticky=False)
        fl_ctx.set_peer_context(FLContextManager(None, "server", JOB).new_context())
        return fl_ctx
