"""Fed-MENU: an encoder per organ, trained where the organ is annotated (METHODS 5).

Xu, Deng, Gateno, Yan, "Federated multi-organ segmentation with inconsistent labels", IEEE TMI 2023. Two optimiser steps
per batch: first marginal Dice + CE and exclusion Dice + CE of the decoder's output, then, for every annotated organ and
level of its encoder, Dice + CE of organ against rest at the auxiliary decoder. The network is MENU-Net, and encoders
are averaged with more weight on the sites that annotate their organ (aggregator, label_weights).

Where this differs from the published code: log-probabilities are exact instead of clamped at 1e-4; a class with no
excluded voxel in the batch has no exclusion Dice; both steps share one optimiser, so an encoder has one momentum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.exclusion import exclude, exclusion_ce
from fedpartial.losses.marginal import merge, voxel_cross_entropy
from fedpartial.losses.smoothed import organ_against_rest, smoothed_exclusion, smoothed_marginal_dice
from fedpartial.methods.base import LossTerms, Objective, RoundContext
from fedpartial.networks.menu import AUXILIARY, OrganOutput


@dataclass(frozen=True, kw_only=True)
class FedMenu(Objective):
    """Weights of the marginal, the exclusion and the auxiliary losses, all 1 as published."""

    marginal_weight: float = 1.0
    exclusion_weight: float = 1.0
    auxiliary_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                raise ConfigError(
                    where="job",
                    field=f"args.method.{name}",
                    got=value,
                    expected="a number of at least 0",
                    remedy="The published weights are all 1.",
                )

    def passes(self) -> int:
        return 2

    def loss(
        self,
        outputs: Sequence[Tensor] | Sequence[OrganOutput],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        """The objective of one pass; ``outputs`` are those of MenuNet.train_pass."""
        if context.pass_number == AUXILIARY:
            auxiliary = torch.stack([_of_organ(output, labels, labelled) for output in outputs]).sum()
            return LossTerms(total=self.auxiliary_weight * auxiliary, parts={"auxiliary": auxiliary})
        (logits,) = outputs
        parts = _marginal(logits, labels, labelled) | _exclusion(logits, labels, labelled, context.groups)
        marginal, exclusion = parts["dice"] + parts["ce"], parts["exclusion_dice"] + parts["exclusion_ce"]
        return LossTerms(total=self.marginal_weight * marginal + self.exclusion_weight * exclusion, parts=parts)


def _marginal(logits: Tensor, labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
    merged = merge(logits, labels, labelled)
    return {"dice": smoothed_marginal_dice(merged), "ce": voxel_cross_entropy(merged).mean()}


def _exclusion(logits: Tensor, labels: Tensor, labelled: Tensor, groups: Tensor) -> dict[str, Tensor]:
    found = exclude(logits, labels, labelled, groups)
    dice = smoothed_exclusion(found.p, found.e, logits)
    ce = [exclusion_ce(p, e) for p, e in zip(found.p, found.e, strict=True)]
    return {"exclusion_dice": dice, "exclusion_ce": torch.stack(ce).mean() if ce else torch.zeros_like(dice)}


def _of_organ(output: OrganOutput, labels: Tensor, labelled: Tensor) -> Tensor:
    """Sum over the levels of organ against rest, in the cases that annotate the organ."""
    channels = list(output.channels)
    target, annotated = labels[output.cases].long(), labelled[output.cases][:, channels]
    shape = (-1, len(channels), *[1] * (labels.ndim - 1))
    wanted = torch.tensor(channels, device=labels.device).view(1, *shape[1:])
    organ = ((target[:, None] == wanted) & annotated.view(shape)).any(1)
    return torch.stack([organ_against_rest(level, organ) for level in output.logits.unbind(1)]).sum()
