"""Marginal Dice + cross entropy: supervision that says nothing about unlabelled classes.

All unlabelled channels of a case, background included, are merged into one before the loss
(ConDistFL Eq 1-2; METHODS 1.1). The labelled mask is per case, so one batch may mix annotations.
Everything happens in log space on the logits, in float32 or better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

DICE_SMOOTHING = 1e-5
NEVER = -1e4
"""Log-probability of a channel that does not exist for a case: finite, and exp(NEVER) is exactly 0."""

AbsentClass = Literal["constant", "skip", "smooth"]
CrossEntropyOn = Literal["merged_prob", "double_softmax_compat"]


@dataclass(frozen=True, kw_only=True)
class MarginalTerms:
    """The two terms, each a scalar, before weighting."""

    dice: Tensor
    ce: Tensor


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A batch after merging (``merge``): what every marginal loss looks at.

    log_q: (N, C, V) log-probabilities, channel 0 the merged background. target: (N, V) channels. counted: bool (N, C),
    the channels a case has an opinion on: its merged background and the classes it annotates.
    """

    log_q: Tensor
    target: Tensor
    counted: Tensor

    @cached_property
    def q(self) -> Tensor:
        return self.log_q.exp()


def plain(tensor: Tensor) -> Tensor:
    """The tensor without its subclass: MONAI's MetaTensor must not change a loss (upstream note U17)."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def flat_logits(logits: Tensor) -> Tensor:
    """(N, C, *S) -> (N, C, V), at least float32."""
    logits = plain(logits).flatten(2)
    return logits if logits.dtype == torch.float64 else logits.float()


def marginal_log_probabilities(logits: Tensor, labelled: Tensor) -> Tensor:
    """Log-probabilities after merging a case's unlabelled channels into channel 0.

    Args:
        logits: (N, C, *S).
        labelled: bool (N, C); column 0 (background) must be False.

    Returns:
        (N, C, *S): channel 0 the merged background, labelled channels unchanged, others NEVER.
    """
    flat = flat_logits(logits)
    mask = labelled[:, :, None]
    log_all = flat.logsumexp(dim=1, keepdim=True)
    background = flat.masked_fill(mask, -torch.inf).logsumexp(dim=1, keepdim=True) - log_all
    foreground = (flat - log_all).masked_fill(~mask, NEVER)
    return torch.cat((background, foreground[:, 1:]), dim=1).unflatten(2, logits.shape[2:])


def merged_target(labels: Tensor, labelled: Tensor) -> Tensor:
    """(N, V) channel of each voxel; labels that the case does not annotate become background."""
    labels = plain(labels).flatten(1).long()
    return torch.where(is_labelled(labels, labelled), labels, 0)


def is_labelled(labels: Tensor, labelled: Tensor) -> Tensor:
    """Bool (N, V): whether a voxel's label is a class its case annotates; values that are no channel are not."""
    known = (labels >= 0) & (labels < labelled.shape[1])
    return labelled.gather(1, torch.where(known, labels, 0)) & known


def merge(logits: Tensor, labels: Tensor, labelled: Tensor) -> Merged:
    """The batch with every case's unlabelled channels merged into channel 0; arguments as for ``marginal_dice_ce``."""
    log_q = marginal_log_probabilities(logits, labelled).flatten(2)
    counted = labelled.clone()
    counted[:, 0] = True
    return Merged(log_q=log_q, target=merged_target(labels, labelled), counted=counted)


def marginal_dice_ce(
    logits: Tensor,
    labels: Tensor,
    labelled: Tensor,
    *,
    absent_class: AbsentClass = "constant",
    squared: bool = False,
    ce_on: CrossEntropyOn = "merged_prob",
) -> MarginalTerms:
    """Soft Dice and cross entropy on merged probabilities (METHODS 1.1).

    Args:
        logits: (N, C, *S).
        labels: (N, *S) integer channels.
        labelled: bool (N, C), which classes each case annotates; column 0 False.
        absent_class: what a labelled class without a voxel in the batch contributes to the Dice mean:
            a constant 1 without gradient (paper), nothing, or a smoothed value with gradient (note U3).
        squared: squared probabilities in the Dice denominator.
        ce_on: "double_softmax_compat" reproduces the upstream code, which applies softmax twice (bug U1).

    Returns:
        Dice averaged over the merged background and every class some case annotates; a class's sums run
        over the cases that annotate it. CE averaged over voxels.
    """
    merged = merge(logits, labels, labelled)
    dice = marginal_dice(merged, absent_class=absent_class, squared=squared)
    return MarginalTerms(dice=dice, ce=voxel_cross_entropy(merged, ce_on=ce_on).mean())


def voxel_cross_entropy(merged: Merged, *, ce_on: CrossEntropyOn = "merged_prob") -> Tensor:
    """(N, V) cross entropy of every voxel; ``ce_on`` as for ``marginal_dice_ce``."""
    log_p = merged.log_q if ce_on == "merged_prob" else _softmax_again(merged.log_q, merged.counted)
    return -log_p.gather(1, merged.target[:, None]).squeeze(1)


def _softmax_again(log_q: Tensor, counted: Tensor) -> Tensor:
    return log_q.exp().masked_fill(~counted[:, :, None], -torch.inf).log_softmax(dim=1)


def marginal_dice(merged: Merged, *, absent_class: AbsentClass = "constant", squared: bool = False) -> Tensor:
    """Mean over counted channels of 1 - 2 |qy| / (|q| + |y|); options as for ``marginal_dice_ce``."""
    q, counted = merged.q, merged.counted
    channels = torch.arange(q.shape[1], device=q.device)
    is_class = merged.target[:, None] == channels[None, :, None]
    overlap = (q * is_class).sum(-1)
    size = (q * q if squared else q).sum(-1)
    voxels = is_class.sum(-1)
    overlap, size, voxels = ((x * counted).sum(0) for x in (overlap, size, voxels))
    numerator_smoothing = DICE_SMOOTHING if absent_class == "smooth" else 0.0
    loss = 1 - (2 * overlap + numerator_smoothing) / (size + voxels + DICE_SMOOTHING)
    used = counted.any(0)
    if absent_class == "skip":
        used = used & (voxels > 0)
    return loss[used].mean()
