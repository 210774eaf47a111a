"""From the command line to a run in which no fault can be found offline, and then to its folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import Job, find_job, new_folder, read_job, write_job
from fedpartial.cli.overrides import values_to_change, with_overrides
from fedpartial.cli.simulator import default_threads, plain_path
from fedpartial.cli.site_check import SiteFolder, check_sites, open_site_folder, stage_site_files
from fedpartial.errors import ConfigError, renamed
from fedpartial.sites import SiteConfig
from fedpartial.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of ``fedpartial run``; None where the job or this machine decides."""

    job: str
    rounds: int | None = None
    local_steps: int | None = None
    sites: tuple[str, ...] | None = None
    seed: int | None = None
    preset: str | None = None
    site_config: Path | None = None
    device: str | None = None
    threads: int | None = None
    time_limit_min: float = 24 * 60.0
    out: Path | None = None
    verbose: bool = False
    keep_workspace: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run without known faults. ``job`` is the changed copy; ``sites`` includes an external set with a file."""

    job: Job
    plan: Plan
    sites: list[SiteConfig]
    site_folder: SiteFolder
    threads: int
    out: Path
    workspace: Path


class Refused(Exception):
    """What the user has to correct; nothing was started and nothing but temporary files written."""

    def __init__(self, faults: Sequence[ConfigError]):
        super().__init__("\n".join(map(str, faults)))
        self.faults = list(faults)


def prepare(options: Options, temporary: Path) -> Prepared:
    """Check everything, in one pass where possible, then write the job and the site files to the run's folder."""
    faults: list[ConfigError] = []
    job = _tried(faults, lambda: _changed_job(options))
    out = _tried(faults, lambda: _out_folder(options, job.name if job else "run"))
    plain_out = out and _tried(faults, lambda: plain_path(out, temporary))
    files = _tried(faults, lambda: open_site_folder(options.site_config, temporary))
    if job is None or files is None:
        raise Refused(faults)
    _tried(faults, lambda: _check_threads(options, job))
    copy = write_job(job, temporary / "job" / job.name)
    plan, found = check_job(copy, temporary / "build")
    faults += [renamed(fault, str(copy.folder), str(job.folder)) for fault in found]
    sites, found = check_sites(job.sites, files, plan, options.device)
    faults += found
    if faults or plan is None or out is None or plain_out is None:
        raise Refused(faults)
    out.mkdir(parents=True, exist_ok=True)
    stage_site_files(sites, files, out / "workspace" / "local")
    return Prepared(
        job=write_job(job, out / "job"),
        plan=plan,
        sites=sites,
        site_folder=files,
        threads=options.threads or default_threads(len(job.sites)),
        out=out,
        workspace=plain_out / "workspace",
    )


def _changed_job(options: Options) -> Job:
    values = values_to_change(
        preset=options.preset, rounds=options.rounds, local_steps=options.local_steps, seed=options.seed
    )
    return with_overrides(read_job(find_job(options.job)), values, options.sites)


def _out_folder(options: Options, job: str) -> Path:
    out = options.out or Path("runs") / f"{job}-{time.strftime('%Y%m%d-%H%M%S')}"
    return new_folder(out, remedy="Results are never overwritten: name another folder or remove this one.")


def _check_threads(options: Options, job: Job) -> None:
    if options.threads is not None and options.threads > len(job.sites):
        raise ConfigError(
            where="--threads",
            field="threads",
            got=options.threads,
            expected=f"at most one per site ({len(job.sites)})",
            remedy="FLARE refuses more; leave the option out for one per site.",
        )


def _tried(faults: list[ConfigError], call: Callable):
    """The value of ``call``, or None and one more fault."""
    try:
        return call()
    except ConfigError as fault:
        faults.append(fault)
        return None
