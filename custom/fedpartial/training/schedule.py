"""The length of a run and the learning rate of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from fedpartial.presets import OptimizerConfig, Plateau

POLY_POWER = 0.9


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds and local steps as the server gives them; lengths are derived.

    The first ``pretrain_rounds`` are a phase of their own: optimiser and learning rate begin anew after it.
    ``sites`` is the number of sites whose data lie in one place.
    """

    num_rounds: int
    local_steps: int
    pretrain_rounds: int = 0
    sites: int = 1

    @property
    def total_steps(self) -> int:
        return self.num_rounds * self.local_steps

    def pooled(self, sites: int) -> Schedule:
        """For the data of several sites in one place: as many steps as these sites take together."""
        return replace(self, local_steps=self.local_steps * sites, sites=self.sites * sites)

    def starts_anew(self, round_number: int, left_by: int) -> bool:
        """Whether the optimiser that round ``left_by`` left belongs to pretraining and this round does not."""
        return left_by < self.pretrain_rounds <= round_number

    def after_round(self, state: PlateauState, loss: float, plateau: Plateau) -> PlateauState:
        """The plateau's state after a round with this mean loss; steps count as those of one site, pooled or not."""
        return state.after(loss, self.local_steps // self.sites, plateau)

    def learning_rate(self, optimizer: OptimizerConfig, step: int, factor: float = 1.0) -> float:
        """Of a global step of the run: cosine (METHODS 1.4), with warm-up (METHODS 4.2), or poly (METHODS 5) over the
        steps of its phase.

        For schedule "plateau" lr times ``factor``, which the site's own loss decides (PlateauState).
        """
        if optimizer.schedule == "plateau":
            return max(optimizer.lr * factor, optimizer.min_lr)
        fall = {"cosine": cosine, "warmup_cosine": warmup_cosine, "poly": poly}[optimizer.schedule]
        first = self.pretrain_rounds * self.local_steps
        if step < first:
            return fall(optimizer, step, first)
        return fall(optimizer, step - first, self.total_steps - first)


def cosine(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """From lr at step 0 to min_lr at step ``total`` and later."""
    share = 0.5 * (1 + math.cos(math.pi * min(step, total) / total))
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * share


def warmup_cosine(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """Linear from 0 to lr over the first ``warmup`` of all steps (a share, rounded), then cosine over the others."""
    warm = round(optimizer.warmup * total)
    if step < warm:
        return optimizer.lr * step / warm
    return cosine(optimizer, step - warm, max(total - warm, 1))


def poly(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """lr (1 - t/T)^0.9, never below min_lr."""
    return max(optimizer.lr * (1 - min(step, total) / total) ** POLY_POWER, optimizer.min_lr)


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """What the learning rate by plateau remembers of the losses so far; a part of the site's state file.

    best: the lowest mean loss of a round that counted as a fall. waited: steps since then. factor: of the preset's lr.
    """

    best: float | None = None
    waited: int = 0
    factor: float = 1.0

    @classmethod
    def from_dict(cls, given: Mapping | None) -> PlateauState:
        return cls(**(given or {}))

    def to_dict(self) -> dict:
        return asdict(self)

    def after(self, loss: float, steps: int, plateau: Plateau) -> PlateauState:
        """The state after a round with this mean loss (METHODS 3.4: lower when it fell by less than drop)."""
        if self.best is None or loss < self.best - plateau.drop:
            return replace(self, best=loss, waited=0)
        waited = self.waited + steps
        if waited < plateau.steps:
            return replace(self, waited=waited)
        return replace(self, waited=0, factor=self.factor * plateau.factor)
