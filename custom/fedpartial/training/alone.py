"""Training of a site by itself, without rounds: MMDS's local training (METHODS 4.2).

The steps go in portions, after each of which everything is on disk: a site that is interrupted goes on where it was,
bit for bit, in whatever job asks for the model next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedpartial.networks.canonical import canonical_state
from fedpartial.training.checkpoint import load_state_before
from fedpartial.training.local_trainer import FRESH
from fedpartial.training.model_file import model_info
from fedpartial.training.own_models import OwnModels, recipe_of
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

LONGEST_PORTION = 50
"""Steps that an interruption may cost."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A site's local model (canonical, CPU), the steps that this call took for it (0 where it was there already), and
    what the last portion reported; numbers of a model that was there are 0."""

    weights: dict[str, Tensor]
    steps: int
    metrics: dict[str, float]


def alone(plan: Plan, site: str) -> Plan:
    """The plan of a site that trains by itself: its own preset, and portions in the place of rounds."""
    portion = portion_of(plan.local_steps)
    return replace(plan.for_site(site), num_rounds=plan.local_steps // portion, local_steps=portion)


def portion_of(steps: int) -> int:
    """The longest portion that divides the steps; all of them where there is none of a useful length."""
    best = max(n for n in range(1, LONGEST_PORTION + 1) if steps % n == 0)
    return best if best > LONGEST_PORTION // 10 else steps


def train_alone(
    session: SiteSession,
    own: OwnModels,
    embeddings: Mapping[str, np.ndarray],
    stop: Callable[[], bool],
    on_portion: Callable[[int], None] = lambda done: None,
) -> Trained:
    """The site's local model: trained now, gone on with, or the one that this recipe has made already.

    session: of ``alone(plan, site)``, with start_from "local" and its state in the ``training_dir``
    of its recipe.
    embeddings: tensors ``embeddings.<class>`` that the network begins with, in the place of its seeded ones.
    """
    made_by = recipe(session, embeddings)
    if (found := own.trained_by(made_by)) is not None:
        return Trained(weights=found, steps=0, metrics={"loss": 0.0, "seconds": 0.0, "optimizer_round": FRESH})
    trainer, portions = session.trainer, session.plan.num_rounds
    start = _start(canonical_state(trainer.network), embeddings)
    first = _first_portion(own.training_dir(made_by), portions)
    metrics, seconds = {"loss": 0.0, "optimizer_round": FRESH}, 0.0
    for portion in range(first, portions):
        on_portion(portion)
        metrics = trainer.run_round(start, portion, stop).metrics
        seconds += metrics["seconds"]
    weights = trainer.stored_private_part()
    own.keep_local(weights, replace(model_info(session.plan, 1, classes=session.head_classes), recipe=made_by))
    steps = (portions - first) * session.plan.schedule.pooled(len(session.site.members)).local_steps
    return Trained(weights=weights, steps=steps, metrics={**metrics, "seconds": seconds})


def recipe(session: SiteSession, embeddings: Mapping[str, np.ndarray]) -> str:
    """What decides this site's local model (own_models.recipe_of)."""
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


def _first_portion(folder, portions: int) -> int:
    state = load_state_before(folder, portions)
    return 0 if state is None else state.values["round"] + 1


def _start(state: dict[str, Tensor], embeddings: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    given = {name: torch.from_numpy(np.array(value)) for name, value in embeddings.items() if name in state}
    return {**state, **given}
