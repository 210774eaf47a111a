"""Follow a running simulation and find the faults that FLARE's simulator hides.

With a process per site, the death of one leaves the simulator waiting for ever; with fewer it may end with
exit code 0. So the watch looks at what is written and at which processes live, never at the exit code alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.faults import FAILURES, Fault, one_per_site, read_failures
from fedpartial.cli.progress_view import ProgressView
from fedpartial.cli.simulator import SERVER_APP, Simulation
from fedpartial.cli.tail import Tail
from fedpartial.flare.progress import PROGRESS_FILE

DIED = re.compile(r"Subprocess died for client (?P<site>[\w.-]+)|Communication error with client (?P<other>[\w.-]+)")
THREAD_DIED = re.compile(r"run_client_thread error: (?P<error>.+)")
LOST = (
    "{} process ended without a word, as when memory runs out. "
    "A smaller --threads runs fewer sites at a time; the log may say more."
)
ABORTED = "TASK_ABORTED"
"""What the other sites answer when the server stops a job."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds: between two looks; after a first fault, for others to appear and the simulator to end by itself;
    until one site's lasting process counts as lost, and until all do or one that is started anew for every task;
    for the simulator to end after its report; for processes to end when they are told to."""

    look: float = 0.5
    fault: float = 10.0
    lost: float = 10.0
    not_restarted: float = 30.0
    ending: float = 60.0
    terminate: float = 10.0


class Watch:
    """``run()`` returns when the simulation has ended or must be ended; leaving ``Simulation`` then ends it."""

    def __init__(
        self,
        simulation: Simulation,
        *,
        workspace: Path,
        threads: int,
        num_sites: int,
        limit_s: float,
        stop: Callable[[], bool],
        view: ProgressView,
        patience: Patience,
    ):
        self.simulation, self.workspace = simulation, workspace
        self.threads, self.stop, self.view, self.patience = threads, stop, view, patience
        self._lasting = threads == num_sites
        self.limit_s, self._deadline = limit_s, time.monotonic() + limit_s
        self._events, self._log = Tail(workspace / SERVER_APP / PROGRESS_FILE), Tail(simulation.log)
        self._fault_since: float | None = None
        self._report_since: float | None = None
        self._seen: set[str] = set()
        self._complete_at = time.monotonic()
        self._evaluating = False
        self._reasons: dict[str, str] = {}
        self._panic: str | None = None
        self._own: list[Fault] = []

    def run(self) -> list[Fault]:
        """Faults of the run, as full as they are known; none says only that nothing bad was seen."""
        while not self._finished():
            time.sleep(self.patience.look)
        self._read()
        return self.faults()

    def faults(self) -> list[Fault]:
        """A site's own words first, then what the server heard; a panic only where nobody else is to blame."""
        heard = [Fault(site=site, text=text) for site, text in self._reasons.items()]
        found = one_per_site([*read_failures(self.workspace), *heard, *self._own])
        if not found and self._panic:
            found = [Fault(text=f"the server stopped the job: {self._panic}")]
        return found

    def _finished(self) -> bool:
        now = time.monotonic()
        ended = self.simulation.exit_code() is not None
        failed = any(self.workspace.glob(FAILURES))  # looked at first, so that the phase it belongs to is known
        self._read()
        if ended or self.stop():
            return True
        if now > self._deadline:
            text = f"the time limit of {self.limit_s / 60:g} min is over; raise it with --time-limit"
            self._own.append(Fault(text=text))
            return True
        self._look_for_lost_sites(now)
        if failed and not self._evaluating:
            self._notice()
        over = (self._fault_since, self.patience.fault), (self._report_since, self.patience.ending)
        return any(since is not None and now - since > seconds for since, seconds in over)

    def _read(self) -> None:
        for line in self._log.lines():
            self.view.log_line(line)
            self._judge_log(line)
        for line in self._events.lines():
            event = json.loads(line)
            self.view.event(event)
            self._judge_event(event)

    def _judge_event(self, event: dict) -> None:
        """In the final evaluation a failing site is left out of the report; before, it ends the run."""
        kind = event["event"]
        if kind == "phase":
            self._evaluating = True
        elif kind == "report":
            self._report_since = time.monotonic()
        elif kind == "failure" and event["reason"] != ABORTED:
            self._reasons.setdefault(event["site"], event["reason"])
        elif kind == "panic":
            self._panic = self._panic or event["reason"]
        if kind == "panic" or (kind == "failure" and not self._evaluating):
            self._notice()

    def _judge_log(self, line: str) -> None:
        """FLARE's own words for a site process that ended or never answered."""
        if self._report_since is not None:
            return
        if match := DIED.search(line):
            self._lost(match["site"] or match["other"])
        elif match := THREAD_DIED.search(line):
            self._own.append(Fault(text=f"FLARE could not run a site's process: {match['error']}"))
            self._notice()

    def _look_for_lost_sites(self, now: float) -> None:
        """FLARE runs as many site processes as it has threads; when one is missing for long, it is gone for good.

        Which site it was is known only where every site has its own.
        """
        if self._report_since is not None or self._fault_since is not None:
            return
        running = self.simulation.processes.sites()
        self._seen |= running
        patience = self.patience.lost if self._lasting and running else self.patience.not_restarted
        if len(running) >= self.threads or not self._seen:
            self._complete_at = now
        elif now - self._complete_at > patience:
            gone = self._seen - running if self._lasting else {None}
            for site in gone:
                self._lost(site)

    def _lost(self, site: str | None) -> None:
        self._own.append(Fault(site=site, text=LOST.format("its" if site else "a site's")))
        self._notice()

    def _notice(self) -> None:
        if self._fault_since is None:
            self._fault_since = time.monotonic()
