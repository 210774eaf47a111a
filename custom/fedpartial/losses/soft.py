"""Cross entropy and Dice of sigmoid outputs against soft targets, each class by itself (METHODS 4.3, Eq 3 and 4).

The targets are probabilities, for instance those of a teacher. A pair is one class of one sample; a loss is the mean
over the pairs that have a target. From logits, in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fedpartial.losses.marginal import flat_logits
from fedpartial.losses.voxel_sums import plain

LEAST_SIZE = 1e-12
"""Below it a denominator counts as this: 0 / 0 has no value. No pair with a visible voxel comes near it."""


def soft_bce(logits: Tensor, target: Tensor, has: Tensor | None = None) -> Tensor:
    """Mean over pairs of the mean over voxels of -(y log p + (1 - y) log(1 - p)).

    Args:
        logits: (N, K, *S).
        target: (N, K, *S), probabilities y.
        has: bool (N, K), the pairs that have a target; None for all.

    Returns:
        A scalar; 0 with a zero gradient when no pair has a target.
    """
    z, y = pairs(logits, target, has)
    return mean_over_pairs(binary_cross_entropy_with_logits(z, y, reduction="none").mean(dim=1))


def soft_dice(logits: Tensor, target: Tensor, has: Tensor | None = None) -> Tensor:
    """Mean over pairs of 1 - 2 sum(y p) / (sum(y) + sum(p)); arguments and the empty case as for ``soft_bce``."""
    z, y = pairs(logits, target, has)
    return mean_over_pairs(dice_by_pair(z, y))


def pairs(logits: Tensor, target: Tensor, has: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits and targets (P, V) of the pairs that have a target, and of no other."""
    z, y = flat_logits(logits), plain(target).flatten(2)
    chosen = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if has is None else has
    return z[chosen], y[chosen].to(z.dtype)


def dice_by_pair(z: Tensor, y: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """(P,): 1 - 2 sum(y p) / (sum(p) + sum(y) + smoothing) over the voxels of (P, V) logits and targets."""
    p = z.sigmoid()
    size = p.sum(dim=1) + y.sum(dim=1) + smoothing
    return 1 - 2 * (y * p).sum(dim=1) / size.clamp(min=LEAST_SIZE)


def mean_over_pairs(losses: Tensor) -> Tensor:
    """Mean of (P,); 0 with a zero gradient for no pair."""
    return losses.sum() / max(len(losses), 1)
