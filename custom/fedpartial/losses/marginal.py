"""Marginal Dice + cross entropy: supervision that says nothing about unlabelled classes.

All unlabelled channels of a case, background included, are merged into one before the loss
(ConDistFL Eq 1-2; METHODS 1.1). The labelled mask is per case, so one batch may mix annotations.
Everything happens in log space on the logits, in float32 or better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedpartial.losses.voxel_sums import plain, voxel_sums

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
        logits: (N, C, *S). Those of a deep-supervision head may be coarser than the labels, by a whole factor along
            every axis: a logit then counts for every voxel of its block, as if enlarged to the nearest.
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
    annotated = [row.nonzero().flatten().tolist() for row in labelled]

    def statistics(n: int, z: Tensor, of_voxels: Tensor) -> Tensor:
        return _dice_ce_sums(z, of_voxels, annotated[n], squared=squared, ce_on=ce_on)

    sums = voxel_sums(statistics, logits, labels)
    overlap, size, voxels = sums[:, :-1].unflatten(1, (3, -1)).sum(0)
    counted = labelled.any(0)
    counted[0] = True
    dice = _mean_dice(overlap, size, voxels, counted, absent_class)
    kind = torch.promote_types(logits.dtype, torch.float32)
    return MarginalTerms(dice=dice.to(kind), ce=(sums[:, -1].sum() / labels.numel()).to(kind))


def _dice_ce_sums(z: Tensor, labels: Tensor, annotated: list[int], *, squared: bool, ce_on: CrossEntropyOn) -> Tensor:
    """Of a part (C, *s) of one case, (3 C + 1,): overlaps, sizes and voxels of every channel, cross entropy."""
    counts, block = _counts(labels, annotated, z)
    z = z.flatten(1)
    hidden = [channel for channel in range(len(z)) if channel not in annotated]
    merged = torch.cat((z[hidden].logsumexp(0, keepdim=True), z[annotated])).log_softmax(0)
    q = merged.exp()
    log_p = merged if ce_on == "merged_prob" else q.log_softmax(0)
    rows = torch.stack(((q * counts).sum(1), block * (q * q if squared else q).sum(1), counts.sum(1)))
    place = torch.tensor([0, *annotated], device=z.device)
    by_channel = z.new_zeros(3, len(z)).index_copy(1, place, rows)
    return torch.cat((by_channel.flatten(), -(log_p * counts).sum()[None]))


def _counts(labels: Tensor, annotated: list[int], z: Tensor) -> tuple[Tensor, int]:
    """(1 + K, V): how many voxels behind each logit are background or none of the case's classes, and how many of each
    of its K classes; and the voxels behind a logit."""
    coarse = z.shape[1:]
    blocks = labels.reshape([n for s, fine in zip(coarse, labels.shape, strict=True) for n in (s, fine // s)])
    within = tuple(range(1, blocks.ndim, 2))
    block = labels.numel() // math.prod(coarse)
    found = [(blocks == c).sum(within, dtype=z.dtype) if block > 1 else (labels == c).to(z.dtype) for c in annotated]
    rest = sum(found, start=z.new_zeros(coarse))
    return torch.stack((block - rest, *found)).flatten(1), block


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
    sums = ((x * counted).sum(0) for x in (overlap, size, is_class.sum(-1)))
    return _mean_dice(*sums, counted.any(0), absent_class)


def _mean_dice(overlap: Tensor, size: Tensor, voxels: Tensor, used: Tensor, absent_class: AbsentClass) -> Tensor:
    """Of sums by channel (C,), the mean loss over the channels of ``used``."""
    numerator_smoothing = DICE_SMOOTHING if absent_class == "smooth" else 0.0
    loss = 1 - (2 * overlap + numerator_smoothing) / (size + voxels + DICE_SMOOTHING)
    if absent_class == "skip":
        used = used & (voxels > 0)
    return loss[used].mean()
