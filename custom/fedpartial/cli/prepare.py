"""From the command line to a run in which no fault can be found offline, and then to its folders."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import Job, find_job, new_folder, read_job, write_job
from fedpartial.cli.overrides import values_to_change, with_overrides, write_method
from fedpartial.cli.public_check import check_public
from fedpartial.cli.refused import Refused
from fedpartial.cli.simulator import default_threads, plain_path
from fedpartial.cli.site_check import SiteFolder, check_sites, open_site_folder, stage_site_files
from fedpartial.cli.start_model import with_start_model
from fedpartial.errors import ConfigError, renamed
from fedpartial.sites import SiteConfig
from fedpartial.training.plan import Plan

JOB, SITES, WORKSPACE = "job", "sites", "workspace"
"""In a run's folder: the job that ran, the site files it ran with, and the simulator's workspace while it runs or when
it failed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of ``fedpartial run``; None where the job or this machine decides."""

    job: str
    rounds: int | None = None
    local_steps: int | None = None
    finetune_steps: int | None = None
    sites: tuple[str, ...] | None = None
    seed: int | None = None
    preset: str | None = None
    start_from: Path | None = None
    site_config: Path | None = None
    device: str | None = None
    threads: int | None = None
    time_limit_min: float = 24 * 60.0
    out: Path | None = None
    verbose: bool = False
    keep_workspace: bool = False
    home: Path | None = None
    """Where models that outlive the job lie; None leaves it to the environment."""
    values: Mapping[str, object] = field(default_factory=dict)
    """Other top-level variables of the server's configuration."""
    method: Mapping[str, object] = field(default_factory=dict)
    """Arguments of the job's method, instead of its own; only plans of ``fedpartial compare`` have them."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A run without known faults, of which only temporary files exist. ``job`` is the changed copy; ``sites`` includes
    an external set and public images with a file; ``local`` holds the site files as FLARE gets them; ``plain_out`` is
    ``out`` by a path that FLARE can hold."""

    options: Options
    job: Job
    plan: Plan
    sites: list[SiteConfig]
    site_folder: SiteFolder
    local: Path
    out: Path
    plain_out: Path


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked run with its folder."""

    options: Options
    job: Job
    plan: Plan
    sites: list[SiteConfig]
    site_folder: SiteFolder
    threads: int
    out: Path
    workspace: Path


def prepare(options: Options, temporary: Path) -> Prepared:
    """Check everything, in one pass where possible, then write the job and the site files to the run's folder."""
    return make_folder(check(options, temporary, _new_out_folder))


def check(options: Options, temporary: Path, out_folder: Callable[[Options, str], Path]) -> Checked:
    """Every fault that can be found offline, in one pass where possible: Refused. Writes to ``temporary`` only.

    ``out_folder`` gives the folder for the results, from the options and the job's name.
    """
    faults: list[ConfigError] = []
    job = _tried(faults, lambda: _changed_job(options))
    out = _tried(faults, lambda: out_folder(options, job.name if job else "run"))
    plain_out = out and _tried(faults, lambda: plain_path(out, temporary))
    files = _tried(faults, lambda: open_site_folder(options.site_config, temporary))
    if job is None or files is None:
        raise Refused(faults)
    _tried(faults, lambda: _check_threads(options, job))
    _tried(faults, lambda: _check_home(options.home))
    copy = write_job(job, temporary / "job" / job.name)
    _tried(faults, lambda: write_method(copy, options.method))
    plan, found = check_job(copy, temporary / "build")
    faults += found
    if plan is not None:
        copy = _tried(faults, lambda: with_start_model(copy, plan, options.start_from)) or copy
    sites, found = check_sites(job.sites, files, plan, options.device)
    public, wrong = check_public(job, plan, sites, files, options.device) if plan else ([], [])
    sites, faults = [*sites, *public], [*faults, *found, *wrong]
    if faults or plan is None or out is None or plain_out is None:
        raise Refused([renamed(fault, str(copy.folder), str(job.folder)) for fault in faults])
    stage_site_files(sites, files, _new_folder(temporary / "local"))
    return Checked(
        options=options,
        job=copy,
        plan=plan,
        sites=sites,
        site_folder=files,
        local=temporary / "local",
        out=out,
        plain_out=plain_out,
    )


def _new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def make_folder(checked: Checked) -> Prepared:
    """Write the job and the site files to the run's folder."""
    job = write_job(checked.job, checked.out / JOB)
    for copy in (checked.out / WORKSPACE / "local", checked.out):
        shutil.copytree(checked.local, copy, dirs_exist_ok=True)
    return Prepared(
        options=checked.options,
        job=job,
        plan=checked.plan,
        sites=checked.sites,
        site_folder=checked.site_folder,
        threads=_threads(checked.options, len(checked.job.sites)),
        out=checked.out,
        workspace=checked.plain_out / WORKSPACE,
    )


def _threads(options: Options, num_sites: int) -> int:
    """Sites take turns on a GPU: none has to share its memory with another."""
    on_gpu = options.device is not None and options.device.startswith("cuda")
    return options.threads or (1 if on_gpu else default_threads(num_sites))


def _changed_job(options: Options) -> Job:
    values = values_to_change(
        preset=options.preset,
        rounds=options.rounds,
        local_steps=options.local_steps,
        seed=options.seed,
        finetune_steps=options.finetune_steps,
        others=options.values,
    )
    return with_overrides(read_job(find_job(options.job)), values, options.sites)


def _new_out_folder(options: Options, job: str) -> Path:
    out = options.out or Path("runs") / f"{job}-{time.strftime('%Y%m%d-%H%M%S')}"
    return new_folder(out, remedy="Results are never overwritten: name another folder or remove this one.")


def _check_home(home: Path | None) -> None:
    if home is not None and home.exists() and not home.is_dir():
        remedy = "Name a folder, or leave the option out."
        raise ConfigError(where="--home", field="folder", got=str(home), expected="a folder", remedy=remedy)


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
