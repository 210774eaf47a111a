"""Training of a site by itself, without rounds: MMDS's local training (METHODS 4.2).

The steps go in portions, after each of which everything is on disk: a site that is interrupted goes on where it was,
bit for bit, in whatever job asks for the model next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.methods.base import Method
from fedpartial.networks.canonical import canonical_state
from fedpartial.sites import SiteConfig, SitePool
from fedpartial.training.checkpoint import discard_unreadable, load_state_before, state_path
from fedpartial.training.local_trainer import FRESH, LocalTrainer
from fedpartial.training.model_file import model_info
from fedpartial.training.own_models import Kept, OwnModels
from fedpartial.training.plan import Plan
from fedpartial.training.portion_log import PortionLog
from fedpartial.training.recipe import recipe_of
from fedpartial.training.site_session import SiteSession

LONGEST_PORTION, SHORTEST_PORTION = 50, 5
"""Steps that an interruption may cost, and how few may stand between two states on disk."""
NOTHING_KNOWN = {"loss": 0.0, "seconds": 0.0, "optimizer_round": FRESH}
STEPS = "steps"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A site's local model (canonical, CPU) and the work it took, each step once, in whatever jobs it was done.

    metrics: of the last portion, "seconds" of all. trained_now: whether this call took steps for it.
    """

    weights: dict[str, Tensor]
    steps: int
    metrics: dict[str, float]
    trained_now: bool

    @property
    def seconds(self) -> float:
        return self.metrics["seconds"]


def alone(plan: Plan, site: str) -> Plan:
    """The plan of a site that trains by itself: its own preset, and portions in the place of rounds."""
    portion = portion_of(plan.local_steps)
    return replace(plan.for_site(site), num_rounds=plan.local_steps // portion, local_steps=portion)


def open_alone(
    site: SiteConfig | SitePool,
    plan: Plan,
    method: Method,
    embeddings: Mapping[str, np.ndarray],
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[SiteSession, OwnModels]:
    """The session of a site that trains by itself, and its folder, in which its state lies under the recipe's name.

    Everything wrong with the site's files is found here. Raises ConfigError and DataFaults.
    """
    own = OwnModels(site.model_dir, plan.federation, site.name)
    session = SiteSession(
        site=site,
        plan=alone(plan, site.name),
        method=method,
        state_dir=own.folder,
        start_from="local",
        on_step=on_step,
    )
    session.state_dir = own.training_dir(recipe(session, embeddings))
    return session, own


def portion_of(steps: int) -> int:
    """The longest portion that divides the steps; ConfigError for a long training that only tiny ones divide."""
    best = _longest_divisor(steps)
    if best == steps or best >= min(SHORTEST_PORTION, LONGEST_PORTION):
        return best
    below, above = (_nearest_good(steps, way) for way in (-1, 1))
    raise ConfigError(
        where="job",
        field="local_steps",
        got=steps,
        expected=f"a number that one from {SHORTEST_PORTION} to {LONGEST_PORTION} divides: its state is saved so often",
        remedy=f"Take {below} or {above}.",
    )


def _longest_divisor(steps: int) -> int:
    return max(n for n in range(1, LONGEST_PORTION + 1) if steps % n == 0)


def _nearest_good(steps: int, way: int) -> int:
    while _longest_divisor(steps) < SHORTEST_PORTION:
        steps += way
    return steps


def train_alone(
    session: SiteSession,
    own: OwnModels,
    embeddings: Mapping[str, np.ndarray],
    stop: Callable[[], bool],
    on_portion: Callable[[int], None] = lambda done: None,
) -> Trained:
    """The site's local model: trained now, gone on with, or the one that this recipe has made already.

    Waits for another job that trains at this site. Raises TrainingStopped, TrainingDiverged and ConfigError.

    session: of ``alone(plan, site)``, with start_from "local" and its state in the ``training_dir``
    of its recipe.
    embeddings: tensors ``embeddings.<class>`` that the network begins with, in the place of its seeded ones.
    """
    made_by = recipe(session, embeddings)
    if (found := own.trained_by(made_by)) is not None:
        return _trained_before(found)
    with own.training_alone(made_by, stop) as folder:
        if (found := own.trained_by(made_by)) is not None:  # by the job that this one waited for
            return _trained_before(found)
        start = _start(canonical_state(session.trainer.network), embeddings)
        trained = _train(session, folder, start, stop, on_portion)
        info = model_info(session.plan, 1, classes=session.head_classes)
        work = {STEPS: trained.steps, **trained.metrics}
        own.keep_local(trained.weights, replace(info, recipe=made_by, training=work))
        return trained


def _trained_before(found: Kept) -> Trained:
    work = dict(found.info.training or {STEPS: 0, **NOTHING_KNOWN})
    return Trained(weights=found.weights, steps=work.pop(STEPS), metrics=work, trained_now=False)


def _train(
    session: SiteSession,
    folder: Path,
    start: Mapping[str, Tensor],
    stop: Callable[[], bool],
    on_portion: Callable[[int], None],
) -> Trained:
    """All portions that are not on disk yet."""
    trainer, portions = session.trainer, session.plan.num_rounds
    first, done = _first_portion(trainer, folder, portions), PortionLog(folder)
    for portion in range(first, portions):
        on_portion(portion)
        _check_goes_on(folder, portion)
        done.note(portion, trainer.run_round(start, portion, stop).metrics)
    return Trained(
        weights=trainer.stored_private_part(),
        steps=trainer.schedule.total_steps,
        metrics=done.metrics(NOTHING_KNOWN),
        trained_now=first < portions,
    )


def recipe(session: SiteSession, embeddings: Mapping[str, np.ndarray]) -> str:
    """What decides this site's local model (recipe.recipe_of)."""
    plan = session.plan
    return recipe_of(
        preset=session.preset,
        method=session.method,
        steps=plan.num_rounds * plan.local_steps,
        seed=plan.seed,
        classes=session.head_classes,
        cases=session.split("training"),
        embeddings=embeddings,
    )


def _first_portion(trainer: LocalTrainer, folder: Path, portions: int) -> int:
    """Where training goes on: after the latest portion whose state can be read and is that of this training."""
    for path in discard_unreadable(folder):
        log.warning("%s cannot be read; training goes on from the state before it", path)
    try:
        trainer.stored_private_part()
    except ConfigError as other:  # of other portions: a version of this package that saved at other steps
        log.warning("training begins anew: %s", other)
        for path in folder.iterdir():
            path.unlink()
    state = load_state_before(folder, portions)
    return 0 if state is None else state.values["round"] + 1


def _check_goes_on(folder: Path, portion: int) -> None:
    """Without the state of the portion before, the trainer would begin with the initial weights; ConfigError."""
    if portion == 0 or state_path(folder, portion - 1).exists():
        return
    raise ConfigError(
        where=str(folder),
        field="state",
        got=f"nothing left of the first {portion} portion(s)",
        expected="the state that this training has written",
        remedy="Leave the folder alone while a job trains, and start the job again.",
    )


def _start(state: dict[str, Tensor], embeddings: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    given = {name: torch.from_numpy(np.array(value)) for name, value in embeddings.items() if name in state}
    return {**state, **given}
