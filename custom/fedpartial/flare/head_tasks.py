"""The executor of jobs with private heads: FLARE's LearnerExecutor, and the two tasks that come after the rounds."""

from __future__ import annotations

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.learner_executor import LearnerExecutor

FINE_TUNE, COLLECT = "fine_tune", "collect"


class HeadTaskExecutor(LearnerExecutor):
    """Also runs "fine_tune" and "collect" (server side: HeadCollection) with the SiteLearner."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if task_name not in (FINE_TUNE, COLLECT):
            return super().execute(task_name, shareable, fl_ctx, abort_signal)
        if not self.is_initialized:  # a simulated task may be a new process
            self.is_initialized = True
            self.initialize(fl_ctx)
        return getattr(self.learner, task_name)(shareable, fl_ctx, abort_signal)
