"""The length of a run and the learning rate of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fedpartial.presets import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds and local steps as the server gives them; lengths are derived."""

    num_rounds: int
    local_steps: int

    @property
    def total_steps(self) -> int:
        return self.num_rounds * self.local_steps

    def pooled(self, sites: int) -> Schedule:
        """For the data of several sites in one place: as many steps as these sites take together."""
        return replace(self, local_steps=self.local_steps * sites)

    def learning_rate(self, optimizer: OptimizerConfig, step: int) -> float:
        """Cosine from lr to min_lr over all local steps of the run (METHODS 1.4)."""
        return cosine(optimizer, step, self.total_steps)


def cosine(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """From lr at step 0 to min_lr at step ``total`` and later."""
    share = 0.5 * (1 + math.cos(math.pi * min(step, total) / total))
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * share
