"""Stands in for ``nvflare simulator`` in tests: python fake_simulator.py BEHAVIOUR JOB -w WS -t N.

Writes the files that a real run writes, or goes wrong in one of the ways in which the real one does.
Standard library only, so that it starts at once. Every process notes its id in <ws>/pids.txt.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

FOR_EVER = 600
TO_BE_SEEN = 0.4
"""Seconds in which the watch, which says nothing, has looked at the processes."""
REPORT = Path(__file__).with_name("report.json")
"""The test puts a valid report there, beside its copy of this script."""


def site_process(site: str, workspace: Path) -> subprocess.Popen:
    """A process in a session of its own, as FLARE starts them."""
    command = [sys.executable, __file__, "simulator_worker", "-o", str(workspace), "--client", site]
    return subprocess.Popen(command, start_new_session=True)


def note_pid(workspace: Path) -> None:
    with (workspace / "pids.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")


def wait_for_pids(workspace: Path, count: int) -> None:
    """Until ``count`` processes have started: on a busy machine that takes a while."""
    while len((workspace / "pids.txt").read_text().split()) < count:
        time.sleep(0.02)


class Run:
    def __init__(self, job: Path, workspace: Path):
        self.job, self.workspace = job, workspace
        self.app = workspace / "server/simulate_job/app_server"
        self.app.mkdir(parents=True, exist_ok=True)
        (workspace / "server/log.txt").write_text("the server's log\n")
        self.sites = [s for p in json.loads((job / "meta.json").read_text())["deploy_map"].values() for s in p[1:]]

    def event(self, kind: str, **values: object) -> None:
        with (self.app / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"event": kind, "time": time.time(), **values}) + "\n")

    def plan(self) -> None:
        self.event("plan", sites=len(self.sites), num_rounds=1)

    def update(self, site: str) -> None:
        values = {"loss": 1.5, "val_dice": None, "seconds": 2.0, "remaining_seconds": 3.0}
        self.event("update", round=1, site=site, **values)

    def models(self) -> None:
        (self.app / "global_model.safetensors").write_bytes(b"weights")
        (self.app / "best_global_model.safetensors").write_bytes(b"best weights")

    def report(self) -> None:
        shutil.copy(REPORT, self.app / "report.json")
        (self.app / "report.html").write_text("<html></html>")
        (self.app / "scores.csv").write_text("site\n")
        (self.app / "rounds.csv").write_text("round\n")
        events = self.app.parent / "tb_events" / self.sites[0]
        events.mkdir(parents=True)
        (events / "events.out.tfevents.1").write_bytes(b"scalars")
        self.event("report", path="report.html")

    def site_failure(self, site: str, kind: str, error: str) -> None:
        folder = self.workspace / site / f"simulate_job/app_{site}"
        folder.mkdir(parents=True)
        (folder / "site_failure.json").write_text(json.dumps({"site": site, "kind": kind, "error": error}))
        self.event("failure", site=site, reason="the public reason")

    def all_until_report(self) -> None:
        self.plan()
        for site in self.sites:
            self.update(site)
        self.models()
        self.event("phase", name="final evaluation")


def good(run: Run) -> None:
    run.all_until_report()
    run.report()


def adapts(run: Run) -> None:
    run.all_until_report()
    for site in run.sites:
        app = run.workspace / site / f"simulate_job/app_{site}"
        app.mkdir(parents=True)
        for way in ("all", "encoder_frozen"):
            (app / f"adapted_{way}.safetensors").write_text(f"{way} of {site}")
        (app / "local_model.safetensors").write_bytes(b"not adapted")
    run.report()


def hangs_after_report(run: Run) -> None:
    good(run)
    time.sleep(FOR_EVER)


def exits_with_2_after_report(run: Run) -> None:
    good(run)
    sys.exit(2)


def no_report(run: Run) -> None:
    run.all_until_report()
    print("2026-01-01 00:00:00,000 - INFO - all is well")
    print("2026-01-01 00:00:00,000 - ERROR - the disk is full")


def no_model(run: Run) -> None:
    run.plan()
    run.report()


def broken_report(run: Run) -> None:
    good(run)
    (run.app / "report.json").write_text('{"job": "x"}')


def site_without_scores(run: Run) -> None:
    good(run)
    report = json.loads(REPORT.read_text())
    del report["sites"][run.sites[-1]]
    (run.app / "report.json").write_text(json.dumps(report))


def crashes(run: Run) -> None:
    print("2026-01-01 00:00:00,000 - ERROR - Simulator setup error: no such thing")
    sys.exit(1)


def hangs(run: Run) -> None:
    run.plan()
    time.sleep(FOR_EVER)


def ignores_sigterm(run: Run) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hangs(run)


def site_fails_and_hangs(run: Run) -> None:
    run.plan()
    for site in run.sites:
        site_process(site, run.workspace)
    wait_for_pids(run.workspace, 1 + len(run.sites))
    copy = run.workspace / run.sites[0] / "local/sites/first.json"
    run.site_failure(run.sites[0], "ConfigError", f"{copy}: labels: got 'x'; expected y.")
    time.sleep(FOR_EVER)


def site_fails_and_ends(run: Run) -> None:
    run.plan()
    for site in run.sites:
        run.site_failure(site, "ZeroDivisionError", f"division by zero at {site}")
    run.event("panic", reason="not enough sites")
    sys.exit(2)


def site_fails_in_final_evaluation(run: Run) -> None:
    run.all_until_report()
    run.site_failure(run.sites[0], "DataFaults", "1 fault(s) in the data set")
    time.sleep(0.8)
    run.report()


def only_the_server_knows(run: Run) -> None:
    run.plan()
    run.event("failure", site=run.sites[0], reason="the public reason")
    run.event("failure", site=run.sites[1], reason="TASK_ABORTED")
    time.sleep(FOR_EVER)


def panics(run: Run) -> None:
    run.plan()
    run.event("panic", reason="component 'persistor' is missing")
    time.sleep(FOR_EVER)


def site_dies(run: Run) -> None:
    run.plan()
    dying, _ = (site_process(site, run.workspace) for site in run.sites)
    wait_for_pids(run.workspace, 3)
    time.sleep(TO_BE_SEEN)
    dying.kill()
    dying.wait()
    time.sleep(FOR_EVER)


def only_site_process_dies(run: Run) -> None:
    """With one thread: killed while it starts, and FLARE waits for its port without a word."""
    run.plan()
    for number, site in enumerate(run.sites):
        process = site_process(site, run.workspace)
        wait_for_pids(run.workspace, 2 + number)
        time.sleep(TO_BE_SEEN)
        process.kill()
        process.wait()
    time.sleep(FOR_EVER)


def flare_says_a_site_died(run: Run) -> None:
    run.plan()
    print(f"2026-01-01 00:00:00,000 - ERROR - Communication error with client {run.sites[0]}: ", flush=True)
    time.sleep(FOR_EVER)


def site_never_starts(run: Run) -> None:
    run.plan()
    print("2026-01-01 - ERROR - run_client_thread error: RuntimeError: Failed to create connection", flush=True)
    time.sleep(FOR_EVER)


def orphan_stays(run: Run) -> None:
    """The simulator ends well and forgets a process."""
    site_process(run.sites[0], run.workspace)
    wait_for_pids(run.workspace, 2)
    good(run)


def main() -> None:
    behaviour, *rest = sys.argv[1:]
    workspace = Path(rest[rest.index("-o" if behaviour == "simulator_worker" else "-w") + 1])
    workspace.mkdir(parents=True, exist_ok=True)
    note_pid(workspace)
    if behaviour == "simulator_worker":
        time.sleep(FOR_EVER)
    globals()[behaviour](Run(Path(rest[0]), workspace))


if __name__ == "__main__":
    main()
