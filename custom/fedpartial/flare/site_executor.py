"""The executor of jobs with tasks beside the rounds: FLARE's LearnerExecutor knows train, validate and submit_model."""

from __future__ import annotations

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.learner_executor import LearnerExecutor

FINE_TUNE, COLLECT, ADAPT = "fine_tune", "collect", "adapt"
LEARN, RECEIVE = "learn", "receive"
LATER_TASKS = (FINE_TUNE, COLLECT, ADAPT, LEARN, RECEIVE)
"""Server side: HeadCollection asks for the first two, SiteAdaptation for the third, SingleRound for the others."""


class SiteExecutor(LearnerExecutor):
    """Also runs these tasks, with the method of the learner that has the task's name."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if task_name not in LATER_TASKS:
            return super().execute(task_name, shareable, fl_ctx, abort_signal)
        if not self.is_initialized:  # a simulated task may be a new process
            self.is_initialized = True
            self.initialize(fl_ctx)
        return getattr(self.learner, task_name)(shareable, fl_ctx, abort_signal)
