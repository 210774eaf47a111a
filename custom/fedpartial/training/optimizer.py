"""SGD with Nesterov momentum whose state is one named tensor per parameter.

The arithmetic is torch's own functional SGD. torch.optim.SGD would do, but making one imports torch's
compiler, one and a half seconds that the simulator with one thread pays for every site and round.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from fedpartial.presets import OptimizerConfig


class NesterovSGD:
    """What torch.amp.GradScaler and the local trainer need of an optimiser, bit for bit torch.optim.SGD."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig):
        self.parameters, self.config, self.lr = dict(parameters), config, config.lr
        self.param_groups = [{"params": list(self.parameters.values())}]
        self._momentum: dict[str, Tensor | None] = dict.fromkeys(self.parameters)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step at the present ``lr``; parameters without a gradient stay as they are."""
        names = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        parameters = [self.parameters[name] for name in names]
        buffers = [self._momentum[name] for name in names]
        sgd(
            parameters,
            [parameter.grad for parameter in parameters],
            buffers,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=self.config.momentum > 0,
            maximize=False,
            foreach=all(parameter.is_cuda for parameter in parameters),
            fused=False,
        )
        self._momentum.update(zip(names, buffers, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Momentum by parameter name; nothing for parameters that have not moved."""
        return {name: buffer for name, buffer in self._momentum.items() if buffer is not None}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state; parameters it does not name start without momentum."""
        for name, parameter in self.parameters.items():
            self._momentum[name] = state[name].to(parameter.device) if name in state else None
