"""Marginal and exclusion losses by name, so that a job's JSON can combine them (METHODS 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpartial.losses.deep_supervision import enlarged
from fedpartial.losses.exclusion import (
    Exclusion,
    Penalised,
    exclude,
    exclusion_ce,
    exclusion_dice,
    exclusion_focal,
    exclusion_lovasz,
    exclusion_topk,
)
from fedpartial.losses.lovasz import marginal_lovasz
from fedpartial.losses.marginal import (
    AbsentClass,
    CrossEntropyOn,
    Merged,
    flat_logits,
    marginal_dice_ce,
    merge,
    voxel_cross_entropy,
)
from fedpartial.losses.voxelwise import marginal_focal, mean_of_largest


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """gamma: of focal; fraction: of top-k; the others: of marginal Dice and cross entropy (``marginal_dice_ce``)."""

    gamma: float = 2.0
    fraction: float = 0.1
    absent_class: AbsentClass = "constant"
    squared: bool = False
    ce_on: CrossEntropyOn = "merged_prob"


MARGINAL: dict[str, Callable[[Merged, LossOptions], Tensor]] = {
    "focal": lambda merged, o: marginal_focal(merged, gamma=o.gamma),
    "topk": lambda merged, o: mean_of_largest(voxel_cross_entropy(merged, ce_on=o.ce_on), o.fraction),
    "lovasz": lambda merged, o: marginal_lovasz(merged.q, merged.target, merged.counted),
}
BY_CLASS: dict[str, Callable[[Tensor, Tensor, LossOptions], Tensor]] = {
    "dice": lambda p, e, o: exclusion_dice(p, e),
    "ce": lambda p, e, o: exclusion_ce(p, e),
    "focal": lambda p, e, o: exclusion_focal(p, e, gamma=o.gamma),
    "topk": lambda p, e, o: exclusion_topk(p, e, fraction=o.fraction),
}
SUMS = ("dice", "ce")
"""Marginal losses that are sums over voxels, which marginal_dice_ce makes."""
LOSS_NAMES = (*SUMS, *MARGINAL)


def marginal_losses(
    logits: Tensor, labels: Tensor, labelled: Tensor, names: Collection[str], options: LossOptions
) -> dict[str, Tensor]:
    """The named losses on merged probabilities, scalars by name; arguments as for ``marginal_dice_ce``."""
    sums, rest = {}, [name for name in names if name not in SUMS]
    if len(rest) < len(names):
        choices = {"absent_class": options.absent_class, "squared": options.squared, "ce_on": options.ce_on}
        sums = vars(marginal_dice_ce(logits, labels, labelled, **choices))
    merged = merge(enlarged(logits, labels), labels, labelled) if rest else None
    return {name: sums[name] if name in SUMS else MARGINAL[name](merged, options) for name in names}


def exclusion_losses(
    logits: Tensor,
    labels: Tensor,
    labelled: Tensor,
    groups: Tensor,
    names: Collection[str],
    options: LossOptions,
    *,
    penalised: Penalised = "unlabelled",
) -> dict[str, Tensor]:
    """The named losses, means over the penalised classes, scalars by name; arguments as for ``exclude``.

    0 with a zero gradient where nothing is excluded or every case annotates everything.
    """
    exclusion = exclude(enlarged(logits, labels), labels, labelled, groups, penalised=penalised)
    if not exclusion.p:
        nothing = flat_logits(logits).flatten()[:0].sum()
        return dict.fromkeys(names, nothing)
    return {name: _by_class(name, exclusion, options).mean() for name in names}


def _by_class(name: str, exclusion: Exclusion, options: LossOptions) -> Tensor:
    """(K,), one value for each penalised class."""
    if name == "lovasz":
        return exclusion_lovasz(exclusion)
    return torch.stack([BY_CLASS[name](p, e, options) for p, e in zip(exclusion.p, exclusion.e, strict=True)])
