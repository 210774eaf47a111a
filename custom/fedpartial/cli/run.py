"""``fedpartial run``: check everything, run FLARE's simulator, watch it, keep the results."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.console import say
from fedpartial.cli.faults import Fault
from fedpartial.cli.interruption import Interrupted, Interruption, interruptible
from fedpartial.cli.prepare import WORKSPACE, Options, Prepared, prepare
from fedpartial.cli.progress_view import ProgressView
from fedpartial.cli.reply import FAILED, SUCCESS, Reply
from fedpartial.cli.results import ADAPTED, collect, judge, last_errors
from fedpartial.cli.simulator import SERVER_APP, Simulation, simulator_command
from fedpartial.cli.site_check import unused_site_files
from fedpartial.cli.watch import Patience, Watch
from fedpartial.server.run_state import RUN_STATE
from fedpartial.sites import default_home

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: its report, where there is a valid one, and why it failed, if it did. ``known`` is False where
    nobody said why and the faults are only what is missing."""

    report: dict | None
    faults: tuple[str, ...]
    known: bool


def run_job(options: Options, reply: Reply, patience: Patience | None = None) -> int:
    """The whole command; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary, interruptible() as interruption:
        prepared = None
        try:
            prepared = prepare(options, Path(temporary))
            _introduce(prepared, reply)
            with ProgressView(reply.console, prepared.job.sites, verbose=options.verbose) as view:
                outcome = execute(prepared, interruption, view, patience or Patience())
            return _finish(prepared, outcome, reply)
        except Interrupted:
            if prepared:
                _offer_continuation(prepared, reply)
            reply.warn("interrupted")
            return interruption.exit_code


def execute(prepared: Prepared, interruption: Interruption, view: ProgressView, patience: Patience) -> Outcome:
    """Run FLARE's simulator, keep what it wrote, and judge that. Interrupted when somebody asked for an end."""
    faults = _simulate(prepared, interruption, view, patience)
    report, missing = judge(prepared.workspace / SERVER_APP, prepared.job.sites)
    texts = tuple(_as_given(prepared, str(fault)) for fault in faults or missing)
    if not texts and not prepared.options.keep_workspace:
        shutil.rmtree(prepared.out / WORKSPACE)
    return Outcome(report=report, faults=texts, known=bool(faults))


def _simulate(prepared: Prepared, interruption: Interruption, view: ProgressView, patience: Patience) -> list[Fault]:
    """Run FLARE's simulator to its end or to the first fault; no process is left when this returns or raises."""
    sites, workspace, options = prepared.job.sites, prepared.workspace, prepared.options
    simulation = Simulation(
        simulator_command(workspace.parent / "job", workspace, prepared.threads),
        workspace=workspace,
        log=prepared.out / "simulator.log",
        device=options.device,
        home=options.home,
        patience=patience.terminate,
    )
    interruption.watched = True
    with _kept(prepared), simulation:
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
        raise Interrupted
    return faults


def _finish(prepared: Prepared, outcome: Outcome, reply: Reply) -> int:
    """Show the scores, and say how the run ended."""
    from fedpartial.evaluation.table import console_table

    if outcome.report is not None:
        reply.console.print(console_table(outcome.report))
        reply.add(scores={"external": outcome.report["external"], "sites": outcome.report["sites"]})
    if (prepared.out / ADAPTED).is_dir():
        reply.say(f"models that the sites adapted to themselves: {prepared.out / ADAPTED}/<site>/")
    if (store := _store(prepared)) is not None:
        own = store.parents[1] / "sites"
        reply.say(f"kept for later stages: {store}, and the sites' own models in {own}")
    if outcome.faults:
        reply.fail(*outcome.faults)
        explain_failure(prepared.out, known=outcome.known, errors=reply.errors)
        _offer_continuation(prepared, reply)
        return FAILED
    reply.say(f"report: {prepared.out / 'report.html'}")
    reply.add(report=prepared.out / "report.html", models=sorted(map(str, prepared.out.glob("*.safetensors"))))
    return SUCCESS


def explain_failure(out: Path, *, known: bool, errors: Console) -> None:
    """Where to look; and FLARE's last errors, where nobody else has said why."""
    log = out / "simulator.log"
    if not known:
        for line in last_errors(log):
            say(errors, f"  {line}")
    say(errors, f"FLARE's log: {log}")
    say(errors, f"kept for a closer look: {out / WORKSPACE}")


def _offer_continuation(prepared: Prepared, reply: Reply) -> None:
    if _store(prepared) is not None:
        reply.say("what was trained and uploaded is kept; to continue, run the job again")
    if (prepared.workspace / SERVER_APP / RUN_STATE).exists():
        reply.say(f"the finished rounds are kept; to continue: fedpartial resume {prepared.out} -o NEW_FOLDER")


def _store(prepared: Prepared) -> Path | None:
    """The federation's model store, once there is something in it."""
    home = (prepared.options.home or default_home()).absolute()
    store = home / "store" / prepared.plan.federation
    return store if prepared.plan.federation and store.is_dir() else None


def _as_given(prepared: Prepared, text: str) -> str:
    """Sites read copies of the site files; name the originals."""
    for site in prepared.job.sites:
        copies = f"{prepared.workspace / site / 'local' / 'sites'}"
        text = text.replace(copies, prepared.site_folder.shown)
    return text


def _introduce(prepared: Prepared, reply: Reply) -> None:
    plan = prepared.plan
    reply.add(out=prepared.out, job=plan.job, preset=plan.preset, seed=plan.seed)
    reply.say(
        f"{plan.job}: {plan.num_rounds} round(s) of {plan.local_steps} local step(s), "
        f"preset {plan.preset}, seed {plan.seed}, {prepared.threads} site process(es) at a time"
    )
    for site in prepared.sites:
        source = "the embedded phantom" if site.source == "phantom" else prepared.site_folder.as_given(site.where)
        reply.say(f"  {site.name}: {source}")
    for name in unused_site_files(prepared.sites, prepared.site_folder):
        reply.warn(f"not used: {name} in {prepared.site_folder.shown} (no site of this run is called so)")
    reply.say(f"results: {prepared.out}")


@contextlib.contextmanager
def _kept(prepared: Prepared) -> Iterator[None]:
    """However a run ends, what it wrote lies in its folder."""
    try:
        yield
    finally:
        collect(prepared.workspace, prepared.out)
