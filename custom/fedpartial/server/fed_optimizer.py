"""FedOpt: the mean update as a pseudo-gradient of a server optimiser (Reddi et al. 2020; METHODS 1.4).

v <- momentum v + delta ; w <- w + eta_r v, with eta_r a cosine from lr to final_lr over the rounds.
It acts on every parameter of the canonical state; running statistics of BatchNorm take their plain mean, since momentum
could make a variance negative. FLARE's PTFedOptModelShareableGenerator updates only the
names of named_parameters() and restarts from its own initial weights, hence this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.networks.canonical import is_statistic


@dataclass(frozen=True, kw_only=True)
class ServerSGD:
    """SGD with momentum on the server; lr 1, final_lr 1, momentum 0 is FedAvg, bit for bit."""

    lr: float = 1.0
    final_lr: float = 0.9
    momentum: float = 0.6

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.final_lr > 0 or not 0 <= self.momentum < 1:
            raise ConfigError(
                where="job",
                field="server optimiser",
                got=(self.lr, self.final_lr, self.momentum),
                expected="lr > 0, final_lr > 0, 0 <= momentum < 1",
                remedy="The paper's values are 1.0, 0.9 and 0.6.",
            )

    def learning_rate(self, round_number: int, num_rounds: int) -> float:
        """Cosine from lr at round 0 to final_lr at round R (METHODS 1.4)."""
        return self.final_lr + (self.lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * round_number / num_rounds))

    def step(
        self,
        velocity: Mapping[str, np.ndarray],
        update: Mapping[str, np.ndarray],
        *,
        round_number: int,
        num_rounds: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """New velocity (of parameters) and the change of the global model, by tensor name; the first velocity is {}."""
        rate = np.float32(self.learning_rate(round_number, num_rounds))
        new = {
            name: np.float32(self.momentum) * velocity[name] + delta if name in velocity and self.momentum else delta
            for name, delta in update.items()
            if not is_statistic(name)
        }
        return new, {name: rate * new[name] if name in new else delta for name, delta in update.items()}
