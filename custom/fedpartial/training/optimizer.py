"""SGD with Nesterov momentum, Adam and AdamW, with a state of named tensors.

The arithmetic is torch's own functional form. torch.optim's classes would do, but making one imports torch's
compiler, one and a half seconds that the simulator with one thread pays for every site and round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
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


class Adam:
    """What NesterovSGD is, bit for bit torch.optim.Adam; torch.optim.AdamW where the preset says "adamw".

    The state of a parameter is ``exp_avg/<name>``, ``exp_avg_sq/<name>`` and ``step/<name>``, its own count of steps.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig):
        self.parameters, self.config, self.lr = dict(parameters), config, config.lr
        self.param_groups = [{"params": list(self.parameters.values())}]
        self._moments: dict[str, _Moments] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step at the present ``lr``; parameters without a gradient stay as they are and have no state."""
        moving = {name: parameter for name, parameter in self.parameters.items() if parameter.grad is not None}
        if not moving:
            return
        self._moments |= {name: _Moments.zero(p) for name, p in moving.items() if name not in self._moments}
        moments = [self._moments[name] for name in moving]
        adam(
            list(moving.values()),
            [parameter.grad for parameter in moving.values()],
            [moment.exp_avg for moment in moments],
            [moment.exp_avg_sq for moment in moments],
            [],
            [moment.step for moment in moments],
            foreach=all(parameter.is_cuda for parameter in moving.values()),
            fused=False,
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=self.lr,
            weight_decay=self.config.weight_decay,
            eps=self.config.eps,
            maximize=False,
            decoupled_weight_decay=self.config.kind == "adamw",
        )

    def state(self) -> dict[str, Tensor]:
        """Both moments and the steps taken, by parameter name; nothing for parameters that have not moved."""
        return {f"{part}/{name}": t for name, moments in self._moments.items() for part, t in vars(moments).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state; parameters it does not name start anew."""
        self._moments = {}
        for name, parameter in self.parameters.items():
            if f"step/{name}" in state:
                moments = self._moments[name] = _Moments.zero(parameter)
                for part, tensor in vars(moments).items():
                    tensor.copy_(state[f"{part}/{name}"])


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Running means of a gradient and of its square, like the parameter; step is a scalar on the CPU, as torch's."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor

    @classmethod
    def zero(cls, parameter: nn.Parameter) -> _Moments:
        data = parameter.detach()
        return cls(exp_avg=torch.zeros_like(data), exp_avg_sq=torch.zeros_like(data), step=torch.tensor(0.0))


Optimizer = NesterovSGD | Adam


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """The optimiser that the preset names."""
    return {"sgd": NesterovSGD, "adam": Adam, "adamw": Adam}[config.kind](parameters, config)
