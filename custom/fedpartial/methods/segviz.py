"""SegViz: a shared trunk, and for each class a private head that its site trains (METHODS section 2).

Kanhere, Kulkarni, Yi, Parekh, "SegViz: A federated-learning based framework for multi-organ segmentation on
heterogeneous data sets with partial annotations", 2023; "Privacy-preserving collaboration for multi-organ segmentation
via federated learning from sites with partial labels", CVPR workshops, 2024. Objective of a head: softmax Dice of its
class against background. What is exchanged stands in the plan; with everything exchanged there is no private head, and
FedAvg is the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.head_dice import head_cross_entropy, head_dice
from fedpartial.methods.base import LossTerms, Objective, RoundContext


@dataclass(frozen=True, kw_only=True)
class SegViz(Objective):
    """Mean over the heads with an annotated case in the batch: Dice (the papers' loss), cross entropy if weighted."""

    dice_weight: float = 1.0
    ce_weight: float = 0.0

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
        """The objective of one batch; ``outputs`` is one tensor (N, heads, 2, H, W, D)."""
        (output,) = outputs
        channels = list(_head_channels(output, context))
        targets = [labels == channel for channel in channels]
        counted = labelled[:, channels].unbind(dim=1)
        heads = list(zip(output.unbind(dim=1), targets, counted, strict=True))
        present = torch.stack([cases.any() for cases in counted])
        parts = {"dice": _mean(torch.stack([head_dice(*head) for head in heads]), present)}
        if not self.ce_weight:
            return LossTerms(total=self.dice_weight * parts["dice"], parts=parts)
        parts["ce"] = _mean(torch.stack([head_cross_entropy(*head) for head in heads]), present)
        return LossTerms(total=self.dice_weight * parts["dice"] + self.ce_weight * parts["ce"], parts=parts)


def _mean(losses: Tensor, present: Tensor) -> Tensor:
    """Mean of the heads' losses (heads,) over those with a case in the batch; the others' are 0."""
    return losses.sum() / present.sum().clamp(min=1)


def _head_channels(output: Tensor, context: RoundContext) -> tuple[int, ...]:
    if not context.head_channels or output.shape[1:3] != (len(context.head_channels), 2):
        raise ConfigError(
            where="job",
            field="args.method",
            got=f"SegViz for outputs of shape {tuple(output.shape)} and {len(context.head_channels)} private head(s)",
            expected="two channels for each private head",
            remedy="Let the job exchange the trunk only, or choose FedAvg for a network with one joint head.",
        )
    return context.head_channels
