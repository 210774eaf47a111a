"""``fedpartial bundle``: the job folder to submit, checked, with its options written in and its code named."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import Job, find_job, move_into_place, new_folder, read_job, write_job
from fedpartial.cli.overrides import values_to_change, with_min_sites, with_overrides
from fedpartial.cli.refused import Refused
from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.cli.start_model import with_start_model
from fedpartial.errors import ConfigError, renamed
from fedpartial.flare.code_check import MANIFEST, SCHEMA_VERSION, own_code
from fedpartial.package_hash import PACKAGE, SHORT, package_files
from fedpartial.server.provenance import source_commit
from fedpartial.training.plan import Plan

INSTALLED, SHIPPED = "installed", "shipped"
CUSTOM, OWN_NAME = "custom", "fedpartial"
NO_CODE = ("README.md",)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of ``fedpartial bundle``; None where the job decides."""

    job: str
    out: Path
    code: str = INSTALLED
    preset: str | None = None
    rounds: int | None = None
    local_steps: int | None = None
    finetune_steps: int | None = None
    start_from: Path | None = None
    seed: int | None = None
    sites: tuple[str, ...] | None = None
    min_sites: int | None = None
    values: Mapping[str, object] = field(default_factory=dict)


def bundle_job(options: Options, reply: Reply) -> int:
    """The whole command; returns its exit code."""
    job, plan = write_bundle(options)
    for line in _summary(job, plan, options):
        reply.say(line)
    reply.add(out=options.out.absolute(), job=plan.job, sites=job.sites, plan=plan.to_dict(), code=own_code())
    return SUCCESS


def write_bundle(options: Options) -> tuple[Job, Plan]:
    """Make and check the bundle in a temporary folder, then put it in its place in one step."""
    original = read_job(find_job(options.job))
    out = _out_folder(options, original)
    job = _changed(original, options)
    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary:
        draft = write_job(job, Path(temporary) / "job" / out.name)
        _leave_out_unused_apps(original, draft)
        for app in draft.apps:
            _put_code(draft.folder / app / CUSTOM, options.code)
            _write_manifest(draft.folder / app / "config" / MANIFEST, original.name, options)
        plan, faults = check_job(draft, Path(temporary) / "build")
        if faults or plan is None:
            raise Refused([renamed(fault, str(draft.folder), str(original.folder)) for fault in faults])
        draft = with_start_model(draft, plan, options.start_from)
        move_into_place(draft.folder, out)
    return replace(draft, folder=out), plan


def _out_folder(options: Options, job: Job) -> Path:
    out = new_folder(options.out, remedy="A bundle is never overwritten: name another folder or remove this one.")
    if out.resolve().is_relative_to(job.folder.resolve()):
        remedy = "Name a folder outside the job."
        raise ConfigError(where="--out", field="folder", got=str(out), expected="not in the job itself", remedy=remedy)
    return out


def _changed(job: Job, options: Options) -> Job:
    values = values_to_change(
        preset=options.preset,
        rounds=options.rounds,
        local_steps=options.local_steps,
        seed=options.seed,
        finetune_steps=options.finetune_steps,
        others=options.values,
    )
    job = with_overrides(job, values, options.sites)
    return job if options.min_sites is None else with_min_sites(job, options.min_sites)


def _leave_out_unused_apps(original: Job, draft: Job) -> None:
    for app in original.apps.keys() - draft.apps.keys():
        shutil.rmtree(draft.folder / app)


def _put_code(custom: Path, code: str) -> None:
    """``shipped``: this package beside what the job brings itself. ``installed``: no custom folder at all, because
    even an empty one makes a job one with code of its own (BYOC) for FLARE."""
    shutil.rmtree(custom / OWN_NAME, ignore_errors=True)
    if code == INSTALLED:
        _refuse_own_code(custom)
        shutil.rmtree(custom, ignore_errors=True)
        return
    for name in package_files():
        target = custom / OWN_NAME / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)


def _refuse_own_code(custom: Path) -> None:
    own = sorted(path.relative_to(custom).as_posix() for path in custom.rglob("*") if _may_be_code(path))
    if own:
        raise ConfigError(
            where="--code",
            field=CUSTOM,
            got=", ".join(own[:3]),
            expected=f"a job without code of its own for {INSTALLED!r}",
            remedy=f"Use --code {SHIPPED}, or install that code at every site and remove it from the job.",
        )


def _may_be_code(path: Path) -> bool:
    return path.is_file() and path.name not in NO_CODE and not path.name.startswith(".")


def _write_manifest(path: Path, job: str, options: Options) -> None:
    """What the server and every site compare with the code they run; no path of this machine."""
    given = {name: value for name, value in vars(options).items() if name not in ("job", "out")}
    given = {name: value.name if isinstance(value, Path) else value for name, value in given.items()}
    content = {
        "schema_version": SCHEMA_VERSION,
        **own_code(),
        "source_commit": source_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {"job": job, **{name: value for name, value in given.items() if value not in (None, {})}},
        "files": package_files(),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _summary(job: Job, plan: Plan, options: Options) -> list[str]:
    code, place = own_code(), shlex.quote(str(options.out))
    where = {
        INSTALLED: "installed at the server and at every site (the job holds no code)",
        SHIPPED: "shipped with the job (BYOC: a site must allow it, and uses an installed fedpartial instead if any)",
    }
    needed = job.meta.get("min_clients", len(job.sites))
    return [
        f"bundle   {options.out}",
        f"job      {plan.job}: {plan.num_rounds} round(s) of {plan.local_steps} local step(s), "
        f"preset {plan.preset}, seed {plan.seed}",
        f"sites    {', '.join(job.sites)} ({needed} of {len(job.sites)} needed)",
        f"code     {where[options.code]}",
        f"package  fedpartial {code['version']}, hash {code['package_hash'][:SHORT]}",
        f"next     nvflare job submit -j {place}",
        f"         or in the admin console: submit_job {shlex.quote(str(options.out.absolute()))}",
    ]
