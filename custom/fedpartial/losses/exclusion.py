"""Exclusion losses: where a case shows one of its organs, no other organ can be (Shi et al. 2021; METHODS 3.2).

A voxel's annotated class excludes every class of another organ group and background; an organ does not exclude the
lesions that grow in it. For a penalised class n the exclusion label e_n is 1 at the voxels where n is impossible, and
every loss grows with the probability p_n there. A case that annotates everything has no exclusion loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedpartial.losses.lovasz import lovasz_jaccard
from fedpartial.losses.marginal import DICE_SMOOTHING, flat_logits, merged_target
from fedpartial.losses.voxelwise import LEAST_MISS, mean_of_largest

Penalised = Literal["unlabelled", "all"]


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """One entry for each penalised class: p (M, V) probabilities and e bool (M, V), M the cases that penalise it."""

    p: Sequence[Tensor]
    e: Sequence[Tensor]


def exclude(
    logits: Tensor, labels: Tensor, labelled: Tensor, groups: Tensor, *, penalised: Penalised = "unlabelled"
) -> Exclusion:
    """What a batch excludes.

    Args:
        logits: (N, C, *S).
        labels: (N, *S) integer channels.
        labelled: bool (N, C), column 0 False.
        groups: bool (G, C), a partition of the channels (LabelSpace.group_matrix).
        penalised: "unlabelled" is background and what the case does not annotate (Fed-MENU); "all" adds its annotated
            classes, which are impossible outside of their own mask.
    """
    p = flat_logits(logits).softmax(dim=1).unbind(1)
    target = merged_target(labels, labelled)
    partial = ~labelled[:, 1:].all(dim=1)
    taking_part = partial[:, None] & (~labelled | (penalised == "all"))
    impossible = _impossible(labelled, groups)
    found_p, found_e = [], []
    for n in taking_part.any(0).nonzero().flatten().tolist():
        cases = taking_part[:, n]
        found_p.append(p[n] if cases.all() else p[n][cases])
        found_e.append(impossible[cases, n].gather(1, target[cases]))
    return Exclusion(p=found_p, e=found_e)


def _impossible(labelled: Tensor, groups: Tensor) -> Tensor:
    """Bool (N, C, C): whether class n (dim 1) cannot be where the case's merged label is l (dim 2)."""
    group = groups.int().argmax(0)
    same_group = group[:, None] == group
    same_class = torch.eye(groups.shape[1], dtype=torch.bool, device=groups.device)
    annotated = torch.ones_like(same_class)
    annotated[:, 0] = False
    return torch.where(labelled[:, :, None], ~same_class, ~same_group & annotated)


def exclusion_dice(p: Tensor, e: Tensor) -> Tensor:
    """2 |e p| / (|e| + |p|), the overlap that should not be; a scalar."""
    return 2 * (p * e).sum() / (e.sum() + p.sum() + DICE_SMOOTHING)


def exclusion_ce(p: Tensor, e: Tensor) -> Tensor:
    """Mean over the excluded voxels of log(1 + p), between 0 and log 2; 0 without any."""
    return _mean(p.log1p(), e)


def exclusion_focal(p: Tensor, e: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean over the excluded voxels of p^gamma log(1 + p); 0 without any."""
    return _mean(p.clamp(min=LEAST_MISS) ** gamma * p.log1p(), e)


def exclusion_topk(p: Tensor, e: Tensor, *, fraction: float = 0.1) -> Tensor:
    """Mean over the excluded voxels with the largest log(1 + p), a fraction of them and at least one; 0 without any."""
    cost = p.masked_select(e).log1p()
    return mean_of_largest(cost, fraction) if len(cost) else cost.sum()


def exclusion_lovasz(exclusion: Exclusion) -> Tensor:
    """(K,): 1 - Lovász-Jaccard of p as a segmentation of e, for each penalised class; 0 where e is empty.

    Outside e its gradient is not zero: p there widens the union, as it does the denominator of exclusion Dice, so both
    losses fall where p rises at a voxel that excludes nothing.
    """
    empty = torch.stack([~e.any() for e in exclusion.e])
    return (1 - lovasz_jaccard(exclusion.p, exclusion.e)).masked_fill(empty, 0.0)


def _mean(values: Tensor, e: Tensor) -> Tensor:
    return (values * e).sum() / e.sum().clamp(min=1)
