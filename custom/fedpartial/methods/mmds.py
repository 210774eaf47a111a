"""The local training of MMDS: every annotated class by itself (METHODS 4.2).

"Federated continual 3D segmentation with single-round communication". Objective: the mean over (case, class) pairs that
the case annotates and the network has of binary cross entropy + binary Dice, sum p + sum y + 1 in its denominator.
The target of an organ is the organ with its lesions, because its output includes them. What is not annotated has no
loss and no gradient: a voxel without a label is no background of an unannotated class. A batch in which no pair counts
has the loss 0 and a gradient of 0: it teaches nothing, and is no reason to stop.

There is no limit that gives FedAvg: the outputs are sigmoids, one for each class, and nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.binary import binary_bce, binary_dice, binary_targets
from fedpartial.methods.base import LossTerms, Objective, RoundContext


@dataclass(frozen=True, kw_only=True)
class Mmds(Objective):
    """Weights of cross entropy and Dice, both 1 in the paper."""

    bce_weight: float = 1.0
    dice_weight: float = 1.0

    def needs_heads(self) -> bool:
        return True

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        """The objective of one batch; ``outputs`` is one tensor (N, K, H, W, D), one logit for each class."""
        (logits,) = outputs
        channels = _channels(logits, labels, context)
        target = binary_targets(labels, channels, context.groups)
        annotated = labelled[:, list(channels)]
        parts = {"bce": binary_bce(logits, target, annotated), "dice": binary_dice(logits, target, annotated)}
        return LossTerms(total=self.bce_weight * parts["bce"] + self.dice_weight * parts["dice"], parts=parts)


def _channels(logits: Tensor, labels: Tensor, context: RoundContext) -> tuple[int, ...]:
    channels = context.head_channels
    if not channels or logits.ndim != labels.ndim + 1 or logits.shape[1] != len(channels):
        raise ConfigError(
            where="job",
            field="args.method",
            got=f"Mmds for outputs of shape {tuple(logits.shape)} and {len(channels)} class(es)",
            expected="one output for each class of a universal network",
            remedy="Name a preset of MMDS, for instance phantom_mmds, or choose another method.",
        )
    return channels
