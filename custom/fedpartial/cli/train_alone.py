"""``fedpartial train-alone``: the local training of a site of MMDS, whenever it likes; a job uploads it later."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.job_build import build
from fedpartial.cli.job_check import check_job
from fedpartial.cli.job_folder import ALL_SITES, SERVER, Job, find_job, read_job, write_job
from fedpartial.cli.overrides import RESERVED_NAMES, values_to_change, with_overrides
from fedpartial.cli.reply import FAILED, INTERRUPTED, SUCCESS, Reply
from fedpartial.cli.site_check import check_sites, open_site_folder
from fedpartial.errors import ConfigError, needs_space, renamed

if TYPE_CHECKING:
    from fedpartial.sites import SiteConfig, SitePool
    from fedpartial.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line: the job in which the site will take part, with the values that it will have there."""

    job: str
    site: str
    site_config: Path | None = None
    preset: str | None = None
    local_steps: int | None = None
    seed: int | None = None
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found without a fault."""

    plan: Plan
    site: SiteConfig | SitePool
    method: object
    embeddings: Mapping


def train_site_alone(request: Request, reply: Reply) -> int:
    """The whole command; returns its exit code."""
    from fedpartial.training.local_trainer import TrainingDiverged

    with tempfile.TemporaryDirectory(prefix="fedpartial-") as temporary:
        try:
            return _train(_checked(request, Path(temporary)), reply)
        except TrainingDiverged as fault:
            reply.fail(fault)
            return FAILED
        except KeyboardInterrupt:
            reply.warn("interrupted; what was trained is kept, and the same command goes on")
            return INTERRUPTED


def _checked(request: Request, temporary: Path) -> Checked:
    """The job's plan and method and the site's file; ConfigError for the first fault, with paths as the user knows
    them."""
    _check_name(request.site)
    asked = _asked(request)
    copy = temporary / "job" / asked.name
    try:
        return _checked_copy(request, write_job(asked, copy), temporary)
    except ConfigError as fault:
        raise renamed(fault, str(copy), str(asked.folder)) from None


def _check_name(site: str) -> None:
    if site not in RESERVED_NAMES:
        return
    expected = f"the name of a site; {', '.join(RESERVED_NAMES)} are names of other things"
    raise ConfigError(where="--site", field="site", got=site, expected=expected, remedy="Correct the option.")


def _asked(request: Request) -> Job:
    """The job with the values that are given, and with this site, which the job may get later."""
    values = values_to_change(
        preset=request.preset,
        rounds=None,
        local_steps=request.local_steps,
        seed=request.seed,
        others=request.values,
    )
    job = read_job(find_job(request.job))
    sites = [name for name in job.sites if name not in (ALL_SITES, request.site)]
    return with_overrides(job, values, None if request.site in job.sites else [*sites, request.site])


def _checked_copy(request: Request, job: Job, temporary: Path) -> Checked:
    plan, faults = check_job(job, temporary / "build")
    files = open_site_folder(request.site_config, temporary)
    sites, wrong = check_sites([request.site], files, plan, None)
    if found := [*faults, *wrong]:
        raise found[0]
    learner = build(job, request.site, temporary / "client").get("learner")
    if not plan.federation or not hasattr(learner, "learn"):
        expected, remedy = "a job whose sites train alone", "Name one of jobs/mmds*."
        raise ConfigError(where=str(job.folder), field="learner", got=job.name, expected=expected, remedy=remedy)
    site = next(site for site in sites if site.name == request.site)
    return Checked(plan=plan, site=site, method=learner.method, embeddings=_embeddings(job, plan, temporary))


def _embeddings(job: Job, plan: Plan, temporary: Path) -> dict:
    """The class vectors that the server would send: a file of its app, which a variable of the job names."""
    from fedpartial.networks.embeddings import read_embeddings
    from fedpartial.networks.universal import EMBEDDINGS

    name = job.server.get("embeddings", "")
    if not name:
        return {}
    found = read_embeddings(job.folder / job.app_of(SERVER) / Path(str(name)).name, plan.config.network.embedding)
    return {f"{EMBEDDINGS}{klass}": vector for klass, vector in found.items()}


def _train(checked: Checked, reply: Reply) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fedpartial.training.alone import open_alone, train_alone

    done_before, loss_text = [0], "loss {task.fields[loss]:.3f}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(loss_text))
    reply.say(f"{checked.site.name}: preparing cases")
    with Progress(*columns, TimeRemainingColumn(), console=reply.console) as bar:
        task = bar.add_task("local steps", total=checked.plan.local_steps, loss=float("nan"))

        def on_step(step: int, loss: float) -> None:
            bar.update(task, completed=done_before[0] + step, loss=loss)

        session, own = open_alone(checked.site, checked.plan, checked.method, checked.embeddings, on_step)

        def on_portion(portion: int) -> None:
            schedule = session.trainer.schedule
            done_before[0] = portion * schedule.local_steps
            bar.update(task, completed=done_before[0], total=schedule.total_steps)  # a pool takes more

        with needs_space("the site's models", own.folder):
            trained = train_alone(session, own, checked.embeddings, lambda: False, on_portion)
        bar.update(task, completed=trained.steps)
    scores = session.validation_scores(trained.weights)
    took = f"{trained.steps} steps in {trained.seconds:.0f} s" if trained.trained_now else "trained before"
    means = ", ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in scores.items())
    reply.say(f"{own.local}: {took}; validation Dice {means or 'of no case'}")
    reply.say("It is uploaded when a job of this federation asks this site for its model.")
    reply.add(model=own.local, steps=trained.steps, seconds=trained.seconds, validation_dice=scores)
    return SUCCESS
