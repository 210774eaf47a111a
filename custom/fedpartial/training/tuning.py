"""Training of a part of a network after the rounds, while the rest stays bit for bit what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.optimizer import Optimizer, build_optimizer
from fedpartial.training.schedule import cosine

Score = Callable[[dict[str, Tensor]], float | None]
"""Validation Dice of a state of the site's network; None for a site without validation cases."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best state (canonical) and its validation Dice, sums of the loss terms, and the optimiser as it ended."""

    weights: dict[str, Tensor]
    dice: float | None
    sums: dict[str, float]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler


def tune(
    trainer: LocalTrainer,
    *,
    trained: Callable[[str], bool],
    steps: int,
    checks: int,
    score: Score,
    stop: Callable[[], bool],
    start: tuple[dict[str, Tensor], float | None] | None = None,
    lr_factor: float = 1.0,
) -> Tuned:
    """Train the parameters whose names are ``trained`` for ``steps`` steps from what the trainer's network holds.

    The learning rate falls by a cosine from lr_factor times the preset's lr to its min_lr; the patches follow those of
    the rounds. The state is scored ``checks`` times; the best is returned, or the last where nothing can be scored.
    start: a state and its score that compete with the others.
    """
    parameters = {name: p for name, p in trainer.network.named_parameters() if trained(name)}
    optimizer = build_optimizer(parameters, trainer.preset.optimizer)
    scaler, context = trainer.fresh_scaler(), trainer.context(trainer.schedule.num_rounds)
    best, best_dice = start or (None, None)
    sums: dict[str, float] = {}
    with only(trainer.network, set(parameters)):
        for span in _spans(trainer.schedule.total_steps, steps, checks):
            rate = _learning_rate(trainer, steps, lr_factor)
            found = trainer.run_steps(span, context, optimizer, scaler, stop, learning_rate=rate)
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
            local = trainer.finite_weights()
            dice = score(local)
            if best is None or dice is None or best_dice is None or dice > best_dice:
                best, best_dice = local, dice
    return Tuned(weights=best, dice=best_dice, sums=sums, optimizer=optimizer, scaler=scaler)


@contextmanager
def only(network: nn.Module, trained: set[str]) -> Iterator[None]:
    """The network in training mode; of other parameters neither value, gradient nor running statistic moves."""
    network.train()
    frozen = [p for name, p in network.named_parameters() if name not in trained]
    for parameter in frozen:
        parameter.requires_grad_(False)
        parameter.grad = None  # clipping would count what the last round left
    for module in _frozen_modules(network):
        module.eval()
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        network.train()


def _frozen_modules(network: nn.Module) -> list[nn.Module]:
    """Modules that have parameters and train none of them."""
    modules = [(module, list(module.parameters())) for module in network.modules()]
    return [module for module, parameters in modules if parameters and not any(p.requires_grad for p in parameters)]


def _spans(first: int, steps: int, checks: int) -> list[range]:
    """The steps in equal parts, with the numbers that follow those of the rounds."""
    edges = [first + steps * part // checks for part in range(checks + 1)]
    return [range(a, b) for a, b in pairwise(edges) if b > a]


def _learning_rate(trainer: LocalTrainer, steps: int, factor: float) -> Callable[[int], float]:
    first, config = trainer.schedule.total_steps, trainer.preset.optimizer
    return lambda step: max(factor * cosine(config, step - first, steps), config.min_lr)
