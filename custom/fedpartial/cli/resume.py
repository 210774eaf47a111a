"""``fedpartial resume``: from what an interrupted run left, a job that continues after its last finished round.

A run of the simulator brings the state of its sites along. In a federation that state never leaves the sites:
the job names the interrupted one, and each site finds its own state in that job's folder.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import (
    LEFT_OUT,
    META,
    NOT_COPIED,
    SERVER,
    SERVER_CONFIG,
    Job,
    deploy_map_error,
    move_into_place,
    new_folder,
    read_job,
    write_values,
)
from fedpartial.cli.json_file import read_json
from fedpartial.cli.overrides import with_min_sites
from fedpartial.cli.refused import Refused
from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.cli.results import REPORT
from fedpartial.cli.simulator import RUN
from fedpartial.errors import ConfigError, renamed
from fedpartial.flare.code_check import MANIFEST
from fedpartial.flare.learner import STATE
from fedpartial.flare.persistor import BEST_MODEL
from fedpartial.package_hash import package_hash
from fedpartial.server.run_state import RUN_STATE, RunState, load_run_state
from fedpartial.training.plan import JOB_ID, Plan

SERVER_APP, SITES_APP = "app_server", "app_sites"
PLACES = (
    SERVER_APP,
    f"workspace/{SERVER_APP}",
    f"{SERVER}/{RUN}/{SERVER_APP}",
    f"workspace/{SERVER}/{RUN}/{SERVER_APP}",
    f"{RUN}/{SERVER_APP}",
)
"""Where the server's app lies in: a job folder left at a server, a download, a simulator's workspace, the folder of
``fedpartial run``, a server's folder of the simulator."""
KEPT_META = ("name", "resource_spec", "min_clients", "mandatory_clients")


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """What is left of a run."""

    app: Path
    meta: dict
    state: RunState
    sites: tuple[str, ...]

    @property
    def simulated(self) -> Path | None:
        """The simulator's workspace, where the state of the sites lies beside the server's."""
        return self.app.parents[2] if self.app.parent.name == RUN else None

    @property
    def jobs(self) -> list[str]:
        """The interrupted jobs by FLARE's id, the latest first. A job that ended before its first round has the state
        of the one before it, so its configuration counts too."""
        given = str(self.meta.get("job_id", ""))
        components = read_json(self.app / "config" / SERVER_CONFIG).get("components", [])
        named = [c["args"].get("resumed_jobs", []) for c in components if c.get("id") == "plan"]
        ids = [*([given] if JOB_ID.fullmatch(given) else []), *chain(*named), *self.state.plan["resumed_jobs"]]
        return list(dict.fromkeys(ids))


def resume_run(run: Path, out: Path, min_sites: int | None, reply: Reply) -> int:
    """The whole command; returns its exit code."""
    left = find_run(run)
    plan = write_continuation(left, out, min_sites)
    for line in _summary(left, plan, out):
        reply.say(line)
    reply.add(out=out.absolute(), job=plan.job, sites=left.sites, finished_rounds=left.state.rounds)
    return SUCCESS


def find_run(run: Path) -> Interrupted:
    """The interrupted run in a folder; ConfigError where no finished round is found, or none is left to do."""
    run = run.absolute()
    apps = [run / place for place in (".", *PLACES) if (run / place / RUN_STATE).is_file()]
    if not apps:
        raise ConfigError(
            where="RUN",
            field="folder",
            got=str(run),
            expected=f"a downloaded job, a job's folder at the server, or a simulated run, with {RUN_STATE}",
            remedy=_why_nothing_is_left(run),
        )
    app = apps[0].resolve()
    state = load_run_state(app / RUN_STATE)
    if state.rounds >= state.plan["num_rounds"] and (app / REPORT).exists():
        raise ConfigError(
            where="RUN",
            field="rounds",
            got=f"{state.rounds} of {state.plan['num_rounds']} finished, and a {REPORT}",
            expected="an interrupted run",
            remedy=f"This run is complete: its models and its report lie in {app}.",
        )
    meta = read_json(app.parent / META)
    return Interrupted(app=app, meta=meta, state=state, sites=_sites(app.parent, meta))


def _why_nothing_is_left(run: Path) -> str:
    if (run / REPORT).is_file():
        return f"This run is finished: its models and its report lie in {run}."
    return "That file is written after every finished round; a run without one is simply started again."


def _sites(folder: Path, meta: dict) -> tuple[str, ...]:
    named = [name for names in meta.get("deploy_map", {}).values() for name in names if name != SERVER]
    if not named or "@ALL" in named:
        raise deploy_map_error(folder, meta.get("deploy_map"), "sites by name")
    return tuple(named)


def write_continuation(left: Interrupted, out: Path, min_sites: int | None = None) -> Plan:
    """Write and check the job in a temporary folder, then put it in its place in one step."""
    out = new_folder(out, remedy="A job is never overwritten: name another folder or remove this one.")
    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary:
        draft = Path(temporary) / "job" / out.name
        _write_apps(left, draft)
        kept = {name: left.meta[name] for name in KEPT_META if name in left.meta}
        (draft / META).write_text(json.dumps({**kept, "deploy_map": _apps(left)}), encoding="utf-8")
        job = _with_interrupted_jobs(read_job(draft), left.jobs)
        job = job if min_sites is None else with_min_sites(job, min_sites)
        write_values(job)
        plan = _checked(job, Path(temporary) / "build", left)
        move_into_place(draft, out)
    return plan


def _with_interrupted_jobs(job: Job, ids: list[str]) -> Job:
    """The plan names the jobs in whose folders the sites find their state."""
    components = copy.deepcopy(job.server.get("components", []))
    for component in components:
        if component.get("id") == "plan":
            component["args"]["resumed_jobs"] = ids
    return replace(job, server={**job.server, "components": components})


def _checked(job: Job, folder: Path, left: Interrupted) -> Plan:
    plan, faults = check_job(job, folder)
    if faults or plan is None:
        raise Refused([renamed(fault, str(job.folder), str(left.app.parent)) for fault in faults])
    left.state.check_continues(plan, where=str(left.app))
    return plan


def _write_apps(left: Interrupted, draft: Path) -> None:
    """The server's app with the state; the sites' app, or one per simulated site with its own state."""
    for app in _apps(left):
        # The server's app keeps both configurations, so that this run can be continued too.
        ignore = LEFT_OUT if app == SERVER_APP else shutil.ignore_patterns(*NOT_COPIED, SERVER_CONFIG)
        for part in ("config", "custom"):
            if (left.app / part).is_dir():
                shutil.copytree(left.app / part, draft / app / part, ignore=ignore)
    for name in (RUN_STATE, BEST_MODEL):
        if (left.app / name).is_file():
            shutil.copyfile(left.app / name, draft / SERVER_APP / name)
    for app, (site, *_) in _apps(left).items():
        state = left.simulated / site / RUN / f"app_{site}" / STATE if left.simulated else None
        if app != SERVER_APP and state and state.is_dir():
            shutil.copytree(state, draft / app / STATE)


def _apps(left: Interrupted) -> dict[str, list[str]]:
    """Participants by app: FLARE's deploy_map."""
    sites = {f"app_{site}": [site] for site in left.sites} if left.simulated else {SITES_APP: list(left.sites)}
    return {SERVER_APP: [SERVER], **sites}


def _summary(left: Interrupted, plan: Plan, out: Path) -> list[str]:
    place = shlex.quote(str(out))
    next_step = f"round {left.state.rounds + 1}" if left.state.rounds < plan.num_rounds else "what follows the rounds"
    lines = [
        f"job      {out}",
        f"run      {plan.job}: {left.state.rounds} of {plan.num_rounds} rounds are finished, {next_step} is next",
        f"sites    {', '.join(left.sites)}",
        *_other_code(out),
    ]
    if left.simulated:
        return [*lines, f"next     fedpartial run {place}"]
    where = "each site takes its optimiser's state from the folder of the interrupted job in its own workspace"
    return [*lines, f"state    {where}", f"next     nvflare job submit -j {place}"]


def _other_code(out: Path) -> list[str]:
    """The package was changed since the interrupted run was bundled: server and sites would refuse the job."""
    manifest = out / SERVER_APP / "config" / MANIFEST
    if not manifest.exists() or read_json(manifest).get("package_hash") == package_hash():
        return []
    return [
        "code     the run was made with other code; to go on with yours: "
        f"fedpartial bundle {shlex.quote(str(out))} -o NEW_FOLDER"
    ]
