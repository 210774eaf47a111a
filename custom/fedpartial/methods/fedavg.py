"""FedAvg with the marginal loss: the plain federated baseline of ConDistFL (METHODS 1.7).

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017;
objective: mean over heads (weights 2^-i) of marginal Dice + cross entropy, METHODS 1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedpartial.losses.deep_supervision import deep_supervision_weights
from fedpartial.losses.marginal import AbsentClass, CrossEntropyOn, marginal_dice_ce
from fedpartial.methods.base import LossTerms, RoundContext, check_choice


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Marginal Dice + CE on every head."""

    dice_weight: float = 1.0
    ce_weight: float = 1.0
    absent_class: AbsentClass = "constant"
    squared: bool = False
    ce_on: CrossEntropyOn = "merged_prob"

    def __post_init__(self) -> None:
        check_choice("absent_class", self.absent_class, AbsentClass)
        check_choice("ce_on", self.ce_on, CrossEntropyOn)

    def needs_teacher(self, context: RoundContext) -> bool:
        return False

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        dice, ce = 0.0, 0.0
        for weight, logits in zip(deep_supervision_weights(len(outputs)), outputs, strict=True):
            terms = marginal_dice_ce(
                logits, labels, labelled, absent_class=self.absent_class, squared=self.squared, ce_on=self.ce_on
            )
            dice, ce = dice + weight * terms.dice, ce + weight * terms.ce
        return LossTerms(total=self.dice_weight * dice + self.ce_weight * ce, parts={"dice": dice, "ce": ce})
