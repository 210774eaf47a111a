"""What options change in a job: values of the server's configuration, the sites, and arguments of the method."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedpartial.cli.job_folder import ALL_SITES, CLIENT_CONFIG, META, SERVER, Job, deploy_map_error
from fedpartial.cli.json_file import read_json
from fedpartial.cli.preset_lengths import values_of_preset
from fedpartial.cli.settings import setting_error
from fedpartial.errors import ConfigError
from fedpartial.evaluation.record import EXTERNAL_NAMES
from fedpartial.phantom import PHANTOM_POOLS
from fedpartial.presets import PRESETS
from fedpartial.sites import PUBLIC

RESERVED_NAMES = (SERVER, PUBLIC, *EXTERNAL_NAMES)
PLAN = "fedpartial.flare.plan.RunPlan"
OPTIONAL = ("wire",)
"""Arguments of the plan that every job takes, though none of them names it."""
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def values_to_change(
    *,
    preset: str | None,
    rounds: int | None,
    local_steps: int | None,
    seed: int | None,
    finetune_steps: int | None = None,
    others: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Top-level variables of the server's configuration, as they were given.

    others: values by the variable's name. ConfigError for one that is given twice.
    """
    given = {
        "preset": preset,
        "num_rounds": rounds,
        "local_steps": local_steps,
        "seed": seed,
        "finetune_steps": finetune_steps,
    }
    if preset is not None:
        _check_preset(preset)
    if twice := [name for name in others or {} if given.get(name) is not None]:
        raise setting_error(twice[0], "the name of a variable that no option of its own names", "Give it once.")
    return {name: value for name, value in given.items() if value is not None} | dict(others or {})


def with_overrides(job: Job, values: Mapping[str, object], sites: Sequence[str] | None) -> Job:
    """The job with other values and other sites; another preset brings the lengths that it was sized for."""
    if "preset" in values:
        values = {**values_of_preset(job, values), **values}
    for name in values:
        job = _naming(job, name) if name in OPTIONAL else job
        _check_variable(job, name)
    job = replace(job, server={**job.server, **values})
    if sites is not None:
        _check_names(sites)
        _check_no_pool(job, sites)
        job = _with_sites(job, tuple(sites))
    if ALL_SITES in job.sites or not job.sites:
        remedy = "Name the sites with --sites a,b,c."
        raise deploy_map_error(job.folder, job.meta["deploy_map"], "sites by name", remedy)
    return job


def with_min_sites(job: Job, number: int) -> Job:
    """How many sites FLARE needs to start the job, and how many accepted updates a round needs."""
    if not 1 <= number <= len(job.sites):
        raise ConfigError(
            where="--min-sites",
            field="min_sites",
            got=number,
            expected=f"1 to {len(job.sites)}, the number of sites of this job",
            remedy="Correct the option.",
        )
    job = with_overrides(job, {"min_clients": number}, None)
    return replace(job, meta={**job.meta, "min_clients": number})


def write_method(copy: Job, arguments: Mapping[str, object]) -> None:
    """Put these arguments of the method into a job's copy, at every site; whether the method takes them is for
    check_job to say."""
    for path in dict.fromkeys(copy.config_path(site, CLIENT_CONFIG) for site in copy.sites if arguments):
        config = read_json(path)
        given = [c["args"]["method"] for c in config.get("components", []) if "method" in c.get("args", {})]
        if not given:
            raise _no_method(path)
        for method in given:
            method["args"] = {**method.get("args", {}), **arguments}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _no_method(path: Path) -> ConfigError:
    remedy = "Leave the method's arguments out."
    return ConfigError(
        where=str(path), field="components", got="no method", expected="a component with args.method", remedy=remedy
    )


def _check_preset(name: str) -> None:
    if name in PRESETS:
        return
    expected = f"one of {', '.join(PRESETS)}"
    raise ConfigError(where="--preset", field="preset", got=name, expected=expected, remedy="Correct the option.")


def _check_variable(job: Job, name: str) -> None:
    """An option that changes nothing would be worse than an error."""
    if name in job.server and f'"{{{name}}}"' in json.dumps(job.server):
        return
    raise ConfigError(
        where=str(job.server_config),
        field=name,
        got="a key that nothing refers to" if name in job.server else "no such key",
        expected=f'a top-level key that components refer to as "{{{name}}}"',
        remedy="Add it to the job, or leave the option out.",
    )


def _naming(job: Job, name: str) -> Job:
    """The job with this variable, handed to its plan; as it is where it has the variable, or no plan."""
    components = job.server.get("components", [])
    if name in job.server or not any(c.get("path") == PLAN for c in components):
        return job
    named = [_with_argument(c, name) if c.get("path") == PLAN else c for c in components]
    return replace(job, server={**job.server, name: None, "components": named})


def _with_argument(component: dict, name: str) -> dict:
    return {**component, "args": {**component.get("args", {}), name: f"{{{name}}}"}}


def _check_names(sites: Sequence[str]) -> None:
    bad = [s for s in sites if not SITE_NAME.fullmatch(s) or s in RESERVED_NAMES or sites.count(s) > 1]
    if bad or not sites:
        raise ConfigError(
            where="--sites",
            field="sites",
            got=", ".join(dict.fromkeys(bad)),
            expected="different names of letters, digits, '_', '.' and '-', separated by commas",
            remedy=f"For example --sites liver,spleen ({' and '.join(RESERVED_NAMES)} are names of other things).",
        )


def _check_no_pool(job: Job, sites: Sequence[str]) -> None:
    """Without its pool a job of central training would be a federation of these sites."""
    if set(job.sites) <= set(PHANTOM_POOLS) and not set(sites) <= set(PHANTOM_POOLS):
        raise ConfigError(
            where="--sites",
            field="sites",
            got=", ".join(sites),
            expected=f"{', '.join(job.sites)}: {job.name} trains in one place",
            remedy='Leave the option out; a site file {"pool": [...]} says whose data lies there.',
        )


def _with_sites(job: Job, sites: tuple[str, ...]) -> Job:
    apps = {app: [p for p in names if p == SERVER or p in sites] for app, names in job.apps.items()}
    if new := [site for site in sites if site not in job.sites]:
        apps[_app_for_new_sites(job, new)] += new
    apps = {app: names for app, names in apps.items() if names}
    server = {**job.server, **({"min_clients": len(sites)} if "min_clients" in job.server else {})}
    ordered = {app: tuple(names) for app, names in apps.items()}
    return replace(job, apps=ordered, meta=_meta(job, apps, sites), server=server)


def _meta(job: Job, apps: dict[str, list[str]], sites: tuple[str, ...]) -> dict:
    """meta.json for these sites only: FLARE refuses requirements of sites that take no part."""
    meta = {**job.meta, "min_clients": len(sites), "deploy_map": apps}
    if meta.get("mandatory_clients"):
        meta["mandatory_clients"] = [site for site in meta["mandatory_clients"] if site in sites]
    if meta.get("resource_spec"):
        meta["resource_spec"] = {s: spec for s, spec in meta["resource_spec"].items() if s in (*sites, SERVER)}
    return meta


def _app_for_new_sites(job: Job, new: list[str]) -> str:
    apps = [app for app, participants in job.apps.items() if set(participants) - {SERVER}]
    if len(apps) == 1:
        return apps[0]
    raise ConfigError(
        where="--sites",
        field="sites",
        got=", ".join(new),
        expected=f"some of {', '.join(job.sites)}",
        remedy=f"This job has {len(apps)} apps for sites: add the new ones to the deploy_map of its {META}.",
    )
