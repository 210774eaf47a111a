"""Fine-tuning after the rounds: the trunk frozen, the site's own heads trained (SegViz, METHODS 2.3).

Frozen means the running statistics of BatchNorm too; the published notebooks froze the parameters only and let the
statistics move (bug S5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from torch import Tensor

from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.split import is_head
from fedpartial.training.local_trainer import FRESH, LocalTrainer
from fedpartial.training.optimizer import Optimizer, build_optimizer
from fedpartial.training.schedule import cosine

CHECKS = 4
"""Validations within the phase; the best of them and of the start is kept (METHODS 2.3: best local validation)."""


def fine_tune(
    trainer: LocalTrainer,
    weights: Mapping[str, Tensor],
    steps: int,
    score: Callable[[dict[str, Tensor]], float | None],
    stop: Callable[[], bool],
) -> dict[str, float]:
    """Train the heads for ``steps`` steps on the last global trunk; the numbers to report.

    ``score`` gives the validation Dice of a state of the site's network, None for a site without validation cases: then
    the last heads are kept. The learning rate falls by a cosine from the preset's lr to its min_lr. The heads kept are
    written as the state after the round that follows the last one; the trunk is not touched.

    Raises what LocalTrainer.run_round raises, and StateMismatch for a site without trained heads.
    """
    if not trainer.stored_private_part():
        raise StateMismatch("there is no head to tune: this site has not finished a round, or lost its state")
    started, number = time.monotonic(), trainer.schedule.num_rounds
    taken = trainer.load(weights, number)
    best = trainer.local_weights()
    first_dice = best_dice = score(best)
    sums: dict[str, float] = {}
    heads, scaler, context = _optimizer(trainer), trainer.fresh_scaler(), trainer.context(number)
    with _frozen_trunk(trainer):
        for span in _spans(trainer.schedule.total_steps, steps):
            rate = _learning_rate(trainer, steps)
            found = trainer.run_steps(span, context, heads, scaler, stop, learning_rate=rate)
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
            local = trainer.finite_weights()
            dice = score(local)
            if dice is None or best_dice is None or dice > best_dice:
                best, best_dice = local, dice
    load_canonical(trainer.network, best)
    trainer.save(number, heads, scaler)
    scored = first_dice is not None and best_dice is not None
    gain = {"dice_before": first_dice, "dice_after": best_dice} if scored else {}
    means = {name: value / steps for name, value in sums.items()}
    facts = {"seconds": time.monotonic() - started, "optimizer_round": FRESH, "tensors_taken": taken}
    return {**means, **gain, **facts}


def _optimizer(trainer: LocalTrainer) -> Optimizer:
    heads = {name: p for name, p in trainer.network.named_parameters() if is_head(name)}
    return build_optimizer(heads, trainer.preset.optimizer)


@contextmanager
def _frozen_trunk(trainer: LocalTrainer) -> Iterator[None]:
    """The heads in training mode; no parameter, statistic or gradient of the trunk moves."""
    trunk = trainer.network.train().trunk
    trunk.eval().requires_grad_(False)
    for parameter in trunk.parameters():
        parameter.grad = None  # clipping would count what the last round left
    try:
        yield
    finally:
        trunk.train().requires_grad_(True)


def _spans(first: int, steps: int) -> list[range]:
    """The phase in equal parts; its patches follow those of the rounds."""
    edges = [first + steps * part // CHECKS for part in range(CHECKS + 1)]
    return [range(a, b) for a, b in pairwise(edges) if b > a]


def _learning_rate(trainer: LocalTrainer, steps: int) -> Callable[[int], float]:
    first, config = trainer.schedule.total_steps, trainer.preset.optimizer
    return lambda step: cosine(config, step - first, steps)
