"""Notices sites that fall silent in the middle of a job.

FLARE 2.9 hears of a dead job process from the site's parent process. A parent that died as well and was started
again registers anew, the server does not connect it with the job, and a round would wait for ever. So the server
listens itself: a job process sends a heartbeat every ten seconds, and a silent one is reported to FLARE, which
counts it as gone after its grace period unless it is heard again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nvflare.apis.fl_constant import SystemConfigs
from nvflare.apis.fl_context import FLContext
from nvflare.apis.wf_comm_spec import WFCommSpec
from nvflare.fuel.utils.config_service import ConfigService

VARIABLE = "silent_client_period"
"""Seconds; a process's environment sets it as NVFLARE_SILENT_CLIENT_PERIOD."""
DEFAULT = 45.0
HEARTBEAT = "jobHeartbeat"


class SilentSites:
    """When each site was heard last. The processes of FLARE's simulator send no heartbeats and are not watched."""

    def __init__(self) -> None:
        self.period = ConfigService.get_float_var(name=VARIABLE, conf=SystemConfigs.APPLICATION_CONF, default=DEFAULT)
        self._heard: dict[str, float] = {}
        self._lock = threading.Lock()

    def listen(self, communicator: WFCommSpec) -> None:
        """Note every sign of life that FLARE's server passes to this workflow's communicator."""
        passed_on = communicator.client_is_active

        def note(client_name: str, reason: str, fl_ctx: FLContext) -> None:
            self.heard(client_name, reason)
            passed_on(client_name, reason, fl_ctx)

        communicator.client_is_active = note

    def heard(self, site: str, reason: str) -> None:
        with self._lock:
            if reason == HEARTBEAT or site in self._heard:
                self._heard[site] = time.monotonic()

    def fallen_silent(self) -> list[str]:
        """Sites not heard for the period; each is named once, until it is heard again."""
        with self._lock:
            silent = [site for site, last in self._heard.items() if time.monotonic() - last > self.period]
            for site in silent:
                del self._heard[site]
        return silent

    @contextmanager
    def watched(self, communicator: WFCommSpec, engine) -> Iterator[None]:
        """Report silent sites to FLARE while a workflow waits for answers."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(1.0):
                for site in self.fallen_silent():
                    with engine.new_context() as fl_ctx:
                        communicator.process_dead_client_report(site, fl_ctx)

        watcher = threading.Thread(target=look, name="silent sites", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
