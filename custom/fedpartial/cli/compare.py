"""``fedpartial compare``: several jobs with several seeds, one after the other, and one comparison of their reports."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.compare_check import RUNS, ComparisonRun, check_runs, clear
from fedpartial.cli.compare_homes import check_homes, failed_stage, open_home
from fedpartial.cli.compare_pages import print_table, write_pages
from fedpartial.cli.compare_plan import ComparePlan, parse_seeds, plan_of_jobs, read_plan
from fedpartial.cli.compare_progress import Progress
from fedpartial.cli.console import say, say_faults
from fedpartial.cli.interruption import Interrupted, Interruption, interruptible
from fedpartial.cli.prepare import Options, make_folder
from fedpartial.cli.reply import FAILED, SUCCESS, Reply
from fedpartial.cli.run import Outcome, execute, explain_failure
from fedpartial.cli.watch import Patience
from fedpartial.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The command line of ``fedpartial compare``; None where the plan, the jobs or this machine decide."""

    out: Path
    jobs: tuple[str, ...] = ()
    plan: Path | None = None
    seeds: str | None = None
    rounds: int | None = None
    local_steps: int | None = None
    preset: str | None = None
    sites: tuple[str, ...] | None = None
    site_config: Path | None = None
    device: str | None = None
    threads: int | None = None
    time_limit_min: float = Options.time_limit_min
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """A comparison at work."""

    title: str
    runs: list[ComparisonRun]
    out: Path
    progress: Progress
    interruption: Interruption
    patience: Patience
    reply: Reply

    @property
    def finished(self) -> list[ComparisonRun]:
        return [run for run in self.runs if run.report is not None]


def compare_jobs(options: CompareOptions, reply: Reply, patience: Patience | None = None) -> int:
    """The whole command; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary, interruptible() as interruption:
        try:
            plan, out = _plan(options), options.out.resolve()
            runs = check_runs(plan, _common(options), out, Path(temporary))
            check_homes(runs)
            comparing = Comparing(
                title=plan.title,
                runs=runs,
                out=out,
                progress=Progress(runs, reply.console, verbose=options.verbose),
                interruption=interruption,
                patience=patience or Patience(),
                reply=reply,
            )
            with _alone(out / RUNS):
                return _run_all(comparing)
        except Interrupted:
            reply.warn("interrupted")
            return interruption.exit_code


def _plan(options: CompareOptions) -> ComparePlan:
    given = {
        "seeds": parse_seeds(options.seeds),
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "preset": options.preset,
        "sites": options.sites,
    }
    if bool(options.jobs) == bool(options.plan):
        raise ConfigError(
            where="JOB",
            field="jobs",
            got="a plan as well" if options.plan else "neither jobs nor a plan",
            expected="jobs, or a plan that names them",
            remedy=f"For example: fedpartial compare fedavg condistfl -o {options.out}",
        )
    return read_plan(options.plan, given) if options.plan else plan_of_jobs(options.jobs, given)


def _common(options: CompareOptions) -> Options:
    """What is the same for every run."""
    return Options(
        job="",
        sites=options.sites,
        site_config=options.site_config,
        device=options.device,
        threads=options.threads,
        time_limit_min=options.time_limit_min,
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A second command would take a run that goes on for an unfinished one, and replace it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise _out_error(str(error), "a folder that can be written", "Name another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "Wait for that command to end, or name another folder."
            raise _out_error("one that another command writes to", "a folder of its own", remedy) from None
        yield


def _out_error(got: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--out", field="folder", got=got, expected=expected, remedy=remedy)


def _run_all(comparing: Comparing) -> int:
    comparing.progress.introduce()
    try:
        for run in comparing.runs:
            if run.report is None:
                _run(run, comparing)
                _write_so_far(comparing)
    except Interrupted:
        _write_so_far(comparing)
        done = f"{len(comparing.finished)} of {len(comparing.runs)} runs are finished and kept"
        say(comparing.reply.errors, f"{done}; to continue, give the same command again")
        raise
    return _finish(comparing)


def _run(run: ComparisonRun, comparing: Comparing) -> None:
    """One run to its end, good or bad; a full disk is a bad end like another."""
    comparing.progress.start(run)
    started = time.monotonic()
    try:
        outcome = _execute(run, comparing)
    except OSError as error:
        outcome = Outcome(report=None, faults=(str(error),), known=True)
    run.end(outcome.report, outcome.faults, time.monotonic() - started)
    comparing.progress.end(run)
    if run.faults:
        say_faults(comparing.reply.errors, run.faults)
        if run.checked.out.exists():  # a stage after a failed one has left nothing
            explain_failure(run.checked.out, known=outcome.known, errors=comparing.reply.errors)


def _execute(run: ComparisonRun, comparing: Comparing) -> Outcome:
    if stage := failed_stage(run, comparing.runs):
        return Outcome(report=None, faults=(f"not run, because {stage} has failed before it",), known=True)
    clear(run)
    open_home(run, comparing.runs)
    prepared = make_folder(run.checked)
    with comparing.progress.view(run) as view:
        return execute(prepared, comparing.interruption, view, comparing.patience)


def _write_so_far(comparing: Comparing) -> None:
    """A comparison that cannot be written yet must not end the runs; the last one says so."""
    if comparing.finished:
        try:
            write_pages(comparing.finished, comparing.title, comparing.out)
        except (OSError, ValueError) as error:
            comparing.reply.warn(f"the comparison so far could not be written: {error}")


def _finish(comparing: Comparing) -> int:
    failed = [run for run in comparing.runs if run.faults]
    if comparing.finished:
        comparison, page = write_pages(comparing.finished, comparing.title, comparing.out, _pictures(comparing))
        print_table(comparison, comparing.reply.console)
        comparing.reply.say(f"comparison: {page}")
        comparing.reply.add(comparison=page.with_suffix(".json"), page=page)
    for run in failed:
        comparing.reply.fail(*(f"{run}: {fault}" for fault in run.faults))
    runs = {str(run): "failed" if run.faults else "finished" for run in comparing.runs}
    comparing.reply.add(out=comparing.out, runs=runs)
    return FAILED if failed else SUCCESS


def _pictures(comparing: Comparing) -> list[tuple[str, bytes]]:
    """A comparison without them is better than none."""
    from fedpartial.cli.compare_pictures import overlay_pictures

    try:
        return overlay_pictures(comparing.runs)
    except (OSError, ValueError) as error:
        comparing.reply.warn(f"no pictures side by side: {error}")
        return []
