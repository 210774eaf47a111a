"""Fine-tuning after the rounds: the trunk frozen, the site's own heads trained (SegViz, METHODS 2.3).

Frozen means the running statistics of BatchNorm too; the published notebooks froze the parameters only and let the
statistics move (bug S5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import Tensor

from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.split import is_head
from fedpartial.training.local_trainer import FRESH, LocalTrainer
from fedpartial.training.tuning import Score, tune

CHECKS = 4
"""Validations within the phase; the best of them and of the start is kept (METHODS 2.3: best local validation)."""


def fine_tune(
    trainer: LocalTrainer, weights: Mapping[str, Tensor], steps: int, score: Score, stop: Callable[[], bool]
) -> dict[str, float]:
    """Train the heads for ``steps`` steps on the last global trunk; the numbers to report.

    A site without validation cases keeps the last heads. The heads kept are written as the state after the round that
    follows the last one; the trunk is not touched.

    Raises what LocalTrainer.run_round raises, and StateMismatch for a site without trained heads.
    """
    if not trainer.stored_private_part():
        raise StateMismatch("there is no head to tune: this site has not finished a round, or lost its state")
    started, number = time.monotonic(), trainer.schedule.num_rounds
    taken = trainer.load(weights, number)
    first = trainer.local_weights()
    first_dice = score(first)
    tuned = tune(
        trainer, trained=is_head, steps=steps, checks=CHECKS, score=score, stop=stop, start=(first, first_dice)
    )
    load_canonical(trainer.network, tuned.weights)
    trainer.save(number, tuned.optimizer, tuned.scaler)
    scored = first_dice is not None and tuned.dice is not None
    gain = {"dice_before": first_dice, "dice_after": tuned.dice} if scored else {}
    means = {name: value / steps for name, value in tuned.sums.items()}
    facts = {"seconds": time.monotonic() - started, "optimizer_round": FRESH, "tensors_taken": taken}
    return {**means, **gain, **facts}
