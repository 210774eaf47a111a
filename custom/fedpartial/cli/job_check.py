"""Everything that can be said about a job's configuration before it runs, in one pass."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fedpartial.cli.job_build import build, config_of, json_error
from fedpartial.cli.job_folder import ALL_SITES, META, SERVER, Job, deploy_map_error
from fedpartial.cli.json_file import read_json
from fedpartial.cli.overrides import RESERVED_NAMES
from fedpartial.errors import ConfigError
from fedpartial.phantom import PHANTOM_POOLS
from fedpartial.training.plan import Plan

PRETRAIN_ROUNDS = "pretrain_rounds"
VARIABLE = re.compile(r"\{(\$?\w+)\}")


def check_job(job: Job, folder: Path) -> tuple[Plan | None, list[ConfigError]]:
    """The job's plan and every fault of its configuration; ``folder`` is for temporary files."""
    faults, plan = _meta_faults(job) + _name_faults(job), None
    for participant in (SERVER, *job.sites):
        undefined = list(_undefined_variables(config_of(job, participant)))
        faults += undefined
        if undefined:
            continue
        try:
            components = build(job, participant, folder)
            plan = _plan(job, components) if participant == SERVER else plan
        except ConfigError as fault:
            faults.append(_with_setting(job, fault))
    if plan is not None:
        faults += _pretraining_faults(job, plan) + _stranger_faults(job, plan)
    return plan, list({str(fault): fault for fault in faults}.values())


def _meta_faults(job: Job) -> list[ConfigError]:
    """What FLARE itself checks when a job is submitted."""
    from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
    from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

    data = zip_directory_to_bytes("", str(job.folder))
    valid, message, _ = JobMetaValidator().validate(job.folder.name, data)
    return [] if valid else [json_error(job.folder / META, "(file)", message, "what FLARE accepts")]


def _name_faults(job: Job) -> list[ConfigError]:
    """A site by the name of something else would be taken for it."""
    bad = [site for site in job.sites if site in RESERVED_NAMES]
    expected = f"names of sites; {', '.join(RESERVED_NAMES)} are names of other things"
    return [deploy_map_error(job.folder, site, expected, "Give the site another name.") for site in bad]


def _pretraining_faults(job: Job, plan: Plan) -> list[ConfigError]:
    """The first round would wait for a site that takes no part."""
    absent = [site for site in plan.pretrain_sites if site not in job.sites and ALL_SITES not in job.sites]
    if not plan.pretrain_rounds or not absent:
        return []
    fault = ConfigError(
        where=str(job.server_config),
        field="pretrain_sites",
        got=", ".join(absent),
        expected=f"sites of this job ({', '.join(job.sites)}): they train in the first {plan.pretrain_rounds} round(s)",
        remedy=f"Leave that phase out with --set pretrain_rounds=0, or add {', '.join(absent)} to --sites.",
    )
    return [fault]


def _stranger_faults(job: Job, plan: Plan) -> list[ConfigError]:
    """A misspelt site would train all its classes, with the job's preset, and nobody would know."""
    pooled = {member for site in job.sites for member in PHANTOM_POOLS.get(site, ())}
    return [
        ConfigError(
            where=str(job.server_config),
            field=name,
            got=site,
            expected=f"a site of this job ({', '.join(job.sites)})",
            remedy=f"Correct the name, or leave it out with --set '{name}={{}}'.",
        )
        for name in ("site_presets", "site_classes")
        for site in getattr(plan, name)
        if site not in {*job.sites, *pooled} and ALL_SITES not in job.sites
    ]


def _with_setting(job: Job, fault: ConfigError) -> ConfigError:
    """Fewer rounds than the job pretrains in: a file is to be corrected only where no option can."""
    if not fault.field.endswith(PRETRAIN_ROUNDS) or PRETRAIN_ROUNDS not in job.server:
        return fault
    remedy = f"Set it with --set {PRETRAIN_ROUNDS}=NUMBER (0 for no pretraining), or give more --rounds."
    return ConfigError(**{**vars(fault), "remedy": remedy})


def _undefined_variables(path: Path) -> Iterator[ConfigError]:
    """FLARE replaces an undefined variable by None and says nothing."""
    given = read_json(path)
    known = {*given, *_system_variables(), *(f"${name}" for name in os.environ)}
    for place, text in _strings(given):
        match = VARIABLE.fullmatch(text.strip())
        if match and match.group(1) not in known:
            name = match.group(1)
            expected = "an environment variable" if name.startswith("$") else f"a top-level key {name!r} in the file"
            yield json_error(path, place, text, expected)


def _system_variables() -> set[str]:
    from nvflare.apis.fl_constant import SystemVarName

    return {value for name, value in vars(SystemVarName).items() if name.isupper()}


def _strings(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value and where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}[{index}]")


def _plan(job: Job, components: dict[str, object]) -> Plan:
    from fedpartial.flare.plan import RunPlan

    for component in components.values():
        if isinstance(component, RunPlan):
            return component.plan
    raise json_error(
        job.server_config, "components", "no RunPlan", "a component of fedpartial.flare.plan.RunPlan with the id 'plan'"
    )
