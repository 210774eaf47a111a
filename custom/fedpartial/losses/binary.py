"""Binary cross entropy and binary Dice of sigmoid outputs, each annotated class by itself (METHODS 4.2).

They are the losses of soft.py with hard targets, but for the 1 in the Dice's denominator. The Dice of a class without a
voxel in the patch is exactly 1 and has no gradient, so cross entropy alone says that the class is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpartial.losses.soft import dice_by_pair, mean_over_pairs, pairs, soft_bce
from fedpartial.losses.voxel_sums import plain

DICE_DENOMINATOR = 1.0


def binary_targets(labels: Tensor, channels: Sequence[int], groups: Tensor) -> Tensor:
    """Bool (N, K, *S): the voxels of each class, those of an organ with its lesions.

    Args:
        labels: (N, *S) channels of the label space.
        channels: the classes' channels, background not among them.
        groups: bool (G, C), background and the organs with their lesions; an organ is the first of its row.
    """
    labels = plain(labels).long()
    members = class_members(channels, groups)
    return torch.stack([torch.isin(labels, inside) for inside in members], dim=1)


def class_members(channels: Sequence[int], groups: Tensor) -> list[Tensor]:
    """For each class the channels that count as it."""
    rows = {int(row.nonzero()[0]): row.nonzero().flatten() for row in groups}
    return [rows.get(channel, torch.tensor([channel], device=groups.device)) for channel in channels]


def binary_bce(logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
    """Mean over the annotated pairs of the mean binary cross entropy of their voxels.

    Args:
        logits: (N, K, *S).
        target: bool (N, K, *S).
        annotated: bool (N, K).

    Returns:
        A scalar; 0 with a zero gradient when no pair is annotated.
    """
    return soft_bce(logits, target, annotated)


def binary_dice(logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
    """Mean over the annotated pairs of 1 - 2 sum(y p) / (sum(p) + sum(y) + 1); arguments as for ``binary_bce``."""
    z, y = pairs(logits, target, annotated)
    return mean_over_pairs(dice_by_pair(z, y, smoothing=DICE_DENOMINATOR))
