"""The run's plan as a server component: it puts itself into every task, so that sites hold no copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedpartial.errors import ConfigError
from fedpartial.flare.code_check import CodeMismatch, attach_code, check_manifest
from fedpartial.flare.weights import narrow
from fedpartial.networks.split import Exchange
from fedpartial.networks.wire import Wire
from fedpartial.training.plan import Plan

HEADER = "fedpartial_plan"


class RunPlan(FLComponent):
    """What the job says about the run (config_fed_server.json, component "plan"); the arguments are those of Plan."""

    def __init__(
        self,
        job: str,
        preset: str,
        num_rounds: int,
        local_steps: int,
        seed: int,
        merge_lesions: bool = False,
        exchange: Exchange = "all",
        finetune_steps: int = 0,
        pretrain_rounds: int = 0,
        pretrain_sites: Sequence[str] = (),
        validate_every: int = 1,
        resumed_jobs: Sequence[str] = (),
        federation: str = "",
        classes: Sequence[str] = (),
        site_presets: Mapping[str, str] | None = None,
        site_classes: Mapping[str, Sequence[str]] | None = None,
        wire: Wire = "float32",
    ):
        super().__init__()
        self.plan = Plan(
            job=job,
            preset=preset,
            num_rounds=num_rounds,
            local_steps=local_steps,
            seed=seed,
            merge_lesions=merge_lesions,
            exchange=exchange,
            finetune_steps=finetune_steps,
            pretrain_rounds=pretrain_rounds,
            pretrain_sites=pretrain_sites,
            validate_every=validate_every,
            resumed_jobs=resumed_jobs,
            federation=federation,
            classes=classes,
            site_presets=site_presets or {},
            site_classes=site_classes or {},
            wire=wire,
        )
        if federation and num_rounds != 1:
            raise ConfigError(
                where="job",
                field="num_rounds",
                got=num_rounds,
                expected="1: a site of a federation with a model store uploads once",
                remedy="Give more local steps instead.",
            )

    def attach(self, task: Shareable) -> None:
        """Make a task ready to leave: it gets the plan, and its tensors become what the plan's wire says.

        Every task of every workflow passes here. ConfigError for a value that the wire cannot hold.
        """
        attach_code(task)
        task.set_header(HEADER, self.plan.to_dict())
        narrow(task, self.plan.wire)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            self._check_own_code(fl_ctx)
        elif event_type == AppEventType.BEFORE_TRAIN_TASK:
            self._attach_or_end(fl_ctx.get_prop(AppConstants.TRAIN_SHAREABLE), fl_ctx)

    def _attach_or_end(self, task: Shareable, fl_ctx: FLContext) -> None:
        """FLARE only logs what an event handler raises, and would send the model as it is."""
        try:
            self.attach(task)
        except ConfigError as error:
            self.system_panic(str(error), fl_ctx)

    def _check_own_code(self, fl_ctx: FLContext) -> None:
        """A bundle made with other code stops here, before any site is asked."""
        try:
            check_manifest(Path(job_root(fl_ctx)), "the server")
        except CodeMismatch as error:
            self.log_error(fl_ctx, str(error))
            self.system_panic(error.public, fl_ctx)


def plan_of_task(task: Shareable) -> Plan:
    """The plan a task carries; ConfigError when a server of another make sent it."""
    return Plan.from_dict(task.get_header(HEADER))


def plan_of_server(fl_ctx: FLContext, plan_id: str) -> RunPlan:
    """The plan component of this job."""
    plan = fl_ctx.get_engine().get_component(plan_id)
    if not isinstance(plan, RunPlan):
        raise TypeError(f"component {plan_id!r}: got {type(plan).__name__}; expected a RunPlan. Add it to the job.")
    return plan


def site_name(fl_ctx: FLContext) -> str:
    """Name of this site, or of the peer's site when called with the peer's context."""
    return fl_ctx.get_identity_name(default="?")


def job_root(fl_ctx: FLContext) -> str:
    """Folder of this job's app at this place (server or site)."""
    return fl_ctx.get_prop(FLContextKey.APP_ROOT)
