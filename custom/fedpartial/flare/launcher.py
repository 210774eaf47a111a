"""Starts a site's job process, and starts it again when something kills it.

FLARE 2.9 reports the death of a job process as a failure of the whole job, even where min_clients could still
be reached (design notes, section 9). The launcher is a component of the site's resources.json, so a site can
choose this one: a killed process comes back, is sent its task again and trains it from the state on disk, with
the same result. A site whose process is killed too often is given up: its code does not fail the job, and the
server goes on with the others as soon as it counts the site as gone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle

from fedpartial.errors import ConfigError

POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Somebody wants this process to end. SIGHUP is also what FLARE says of a process that it lost sight of."""


class SiteJobLauncher(ClientProcessJobLauncher):
    """FLARE's launcher of processes, with restarts.

    Args:
        max_restarts: how often one job may be started again at this site.
        pause: seconds before a restart, so that memory is free again.
    """

    def __init__(self, max_restarts: int = 2, pause: float = 2.0):
        super().__init__()
        for field, value, kind in (("max_restarts", max_restarts, int), ("pause", pause, (int, float))):
            if isinstance(value, bool) or not isinstance(value, kind) or value < 0:
                raise ConfigError(
                    where="resources.json",
                    field=f"process_launcher.{field}",
                    got=value,
                    expected="a number of at least 0",
                    remedy="Correct it in the site's local/resources.json.",
                )
        self.max_restarts, self.pause = max_restarts, pause

    def launch_job(self, job_meta: dict, fl_ctx: FLContext) -> JobHandleSpec:
        # The wait for the process begins after this context is gone from FLARE's hands; what the command
        # needs is read from it again at every start.
        start = super().launch_job
        return RestartingHandle(
            lambda: start(job_meta, fl_ctx), max_restarts=self.max_restarts, pause=self.pause, say=self.logger.warning
        )


class RestartingHandle(JobHandleSpec):
    """One job at one site, over all processes it takes."""

    def __init__(
        self, start: Callable[[], ProcessHandle], *, max_restarts: int, pause: float, say: Callable[[str], object]
    ):
        super().__init__()
        self._start, self._pause, self._say = start, pause, say
        self._left = self.max_restarts = max_restarts
        self._told_to_end = threading.Event()
        self._lock = threading.Lock()
        self._given_up = False
        self._handle = start()

    def wait(self) -> None:
        """Return when the process ended by itself, was told to end, or was killed once too often."""
        while True:
            self._handle.wait()
            number = self._killed_by()
            if number is None or self._told_to_end.is_set():
                return
            if number in POLITE or not self._left:
                self._given_up = True
                how = "was ended by signal {}" if number in POLITE else "was killed by signal {} again"
                self._say(f"the job's process {how.format(number)}: given up, the job goes on without this site")
                return
            self._left -= 1
            self._say(
                f"the job's process was killed by signal {number} (9 may mean that memory ran out): "
                f"restart {self.max_restarts - self._left} of {self.max_restarts}"
            )
            if self._told_to_end.wait(self._pause) or not self._restart():
                return

    def _restart(self) -> bool:
        """A new process, unless the job was told to end meanwhile."""
        with self._lock:
            if self._told_to_end.is_set():
                return False
            self._handle = self._start()
        return True

    def _killed_by(self) -> int | None:
        code = self._handle.adapter.poll()
        return -code if code is not None and code < 0 else None

    def terminate(self) -> None:
        with self._lock:
            self._told_to_end.set()
            self._handle.terminate()

    def poll(self) -> int:
        """FLARE's return code; UNKNOWN while it runs, and for a site that is given up: it does not fail the job."""
        return JobReturnCode.UNKNOWN if self._given_up else self._handle.poll()
