"""FedAvg with the marginal loss: the plain federated baseline of ConDistFL (METHODS 1.7).

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017;
objective: mean over heads (weights 2^-i) of marginal Dice + cross entropy, METHODS 1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedpartial.losses.deep_supervision import deep_supervision_weights
from fedpartial.losses.marginal import AbsentClass, CrossEntropyOn, marginal_dice_ce, merged_target
from fedpartial.methods.base import LossTerms, Objective, RoundContext, check_choice

Unlabelled = Literal["merged", "background"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(Objective):
    """Dice + CE on every head.

    unlabelled: "merged" is the marginal loss. "background" is FedAvg* of the paper: the standard loss over all
    channels, which takes every voxel without a label for true background, whatever organ it shows.
    """

    dice_weight: float = 1.0
    ce_weight: float = 1.0
    absent_class: AbsentClass = "constant"
    squared: bool = False
    ce_on: CrossEntropyOn = "merged_prob"
    unlabelled: Unlabelled = "merged"

    def __post_init__(self) -> None:
        check_choice("unlabelled", self.unlabelled, Unlabelled)
        check_choice("absent_class", self.absent_class, AbsentClass)
        check_choice("ce_on", self.ce_on, CrossEntropyOn)

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        if self.unlabelled == "background":
            labels, labelled = taken_for_background(labels, labelled)
        dice, ce = 0.0, 0.0
        for weight, logits in zip(deep_supervision_weights(len(outputs)), outputs, strict=True):
            terms = marginal_dice_ce(
                logits, labels, labelled, absent_class=self.absent_class, squared=self.squared, ce_on=self.ce_on
            )
            dice, ce = dice + weight * terms.dice, ce + weight * terms.ce
        return LossTerms(total=self.dice_weight * dice + self.ce_weight * ce, parts={"dice": dice, "ce": ce})


def taken_for_background(labels: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """Labels without what a case does not annotate, and a mask that calls every foreground class annotated."""
    target = merged_target(labels, labelled).view(labels.shape)
    everything = torch.ones_like(labelled)
    everything[:, 0] = False
    return target, everything
