"""``fedpartial run``: check everything, run FLARE's simulator, watch it, keep the results."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fedpartial.cli.console import say, say_faults
from fedpartial.cli.faults import Fault
from fedpartial.cli.prepare import Options, Prepared, Refused, prepare
from fedpartial.cli.progress_view import ProgressView
from fedpartial.cli.results import collect, judge, last_errors
from fedpartial.cli.simulator import SERVER_APP, Simulation, simulator_command
from fedpartial.cli.site_check import unused_site_files
from fedpartial.cli.watch import Patience, Watch
from fedpartial.server.run_state import RUN_STATE

if TYPE_CHECKING:
    from rich.console import Console

SUCCESS, RUN_FAILED, USER_ERROR = 0, 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another polite request to end."""


class Interruption:
    """The signal handler. An exception out of a handler can hit any line, so while the simulator runs the first
    signal is only noted, and the watch sees it; everywhere else, and at the second signal, it is raised."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.watched = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, self.number or number
        if not (self.watched and first):
            raise Interrupted

    def requested(self) -> bool:
        return self.number is not None

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def run_job(options: Options, console: Console, errors: Console, patience: Patience | None = None) -> int:
    """The whole command; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary, _interruptible() as interruption:
        try:
            prepared = prepare(options, Path(temporary))
            _introduce(prepared, console, errors)
            faults = _simulate(options, prepared, interruption, console, patience or Patience())
            return _finish(options, prepared, faults, console, errors)
        except Refused as refused:
            say_faults(errors, refused.faults)
            return USER_ERROR
        except Interrupted:
            say(errors, "interrupted", "yellow")
            return interruption.exit_code


def _simulate(
    options: Options, prepared: Prepared, interruption: Interruption, console: Console, patience: Patience
) -> list[Fault]:
    """Run FLARE's simulator to its end or to the first fault; no process is left when this returns or raises."""
    sites, workspace = prepared.job.sites, prepared.workspace
    simulation = Simulation(
        simulator_command(workspace.parent / "job", workspace, prepared.threads),
        workspace=workspace,
        log=prepared.out / "simulator.log",
        device=options.device,
        patience=patience.terminate,
    )
    interruption.watched = True
    with _kept(prepared), ProgressView(console, sites, verbose=options.verbose) as view, simulation:
        faults = Watch(
            simulation,
            workspace=workspace,
            threads=prepared.threads,
            num_sites=len(sites),
            limit_s=options.time_limit_min * 60,
            stop=interruption.requested,
            view=view,
            patience=patience,
        ).run()
    interruption.watched = False
    if interruption.requested():
        _offer_continuation(prepared, console)
        raise Interrupted
    return faults


def _finish(options: Options, prepared: Prepared, faults: list[Fault], console: Console, errors: Console) -> int:
    """Judge what was written, keep it, and say how the run ended."""
    from fedpartial.evaluation.table import console_table

    report, missing = judge(prepared.workspace, prepared.job.sites)
    if report is not None:
        console.print(console_table(report))
    if faults or missing:
        say_faults(errors, [_as_given(prepared, str(fault)) for fault in faults or missing])
        _explain_failure(prepared, known=bool(faults), errors=errors)
        return RUN_FAILED
    if not options.keep_workspace:
        shutil.rmtree(prepared.out / "workspace")
    say(console, f"report: {prepared.out / 'report.html'}")
    return SUCCESS


def _explain_failure(prepared: Prepared, *, known: bool, errors: Console) -> None:
    log = prepared.out / "simulator.log"
    if not known:
        for line in last_errors(log):
            say(errors, f"  {line}")
    say(errors, f"FLARE's log: {log}")
    say(errors, f"kept for a closer look: {prepared.out / 'workspace'}")
    _offer_continuation(prepared, errors)


def _offer_continuation(prepared: Prepared, console: Console) -> None:
    if (prepared.workspace / SERVER_APP / RUN_STATE).exists():
        say(console, f"the finished rounds are kept; to continue: fedpartial resume {prepared.out} -o NEW_FOLDER")


def _as_given(prepared: Prepared, text: str) -> str:
    """Sites read copies of the site files; name the originals."""
    for site in prepared.job.sites:
        copies = f"{prepared.workspace / site / 'local' / 'sites'}"
        text = text.replace(copies, prepared.site_folder.shown)
    return text


def _introduce(prepared: Prepared, console: Console, errors: Console) -> None:
    plan = prepared.plan
    say(
        console,
        f"{plan.job}: {plan.num_rounds} round(s) of {plan.local_steps} local step(s), "
        f"preset {plan.preset}, seed {plan.seed}, {prepared.threads} site process(es) at a time",
    )
    for site in prepared.sites:
        source = "the embedded phantom" if site.source == "phantom" else prepared.site_folder.as_given(site.where)
        say(console, f"  {site.name}: {source}")
    for name in unused_site_files(prepared.sites, prepared.site_folder):
        say(errors, f"not used: {name} in {prepared.site_folder.shown} (no site of this run is called so)", "yellow")
    say(console, f"results: {prepared.out}")


@contextlib.contextmanager
def _kept(prepared: Prepared) -> Iterator[None]:
    """However a run ends, what it wrote lies in its folder."""
    try:
        yield
    finally:
        collect(prepared.workspace, prepared.out)


@contextlib.contextmanager
def _interruptible() -> Iterator[Interruption]:
    """Ctrl-C, ``kill`` and a closed terminal all end a run in the same orderly way, unless nohup says otherwise."""
    interruption = Interruption()
    listened_to = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption) for number in listened_to}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
