"""The Dice of Fed-MENU (METHODS 5): squared sizes, 1 added above and below, sums over all cases of the batch.

Xu, Deng, Gateno, Yan, "Federated multi-organ segmentation with inconsistent labels", IEEE TMI 2023. The added voxel
gives a class without a voxel in the batch a small, finite loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedpartial.losses.marginal import Merged, flat_logits
from fedpartial.losses.voxel_sums import plain


def smoothed_overlap(p: Tensor, y: Tensor) -> Tensor:
    """(2 |py| + 1) / (|p^2| + |y| + 1) of probabilities and a bool mask of the same shape; a scalar of at most 1."""
    return (2 * (p * y).sum() + 1) / ((p * p).sum() + y.sum() + 1)


def smoothed_marginal_dice(merged: Merged) -> Tensor:
    """Mean over the counted channels of 1 - overlap; a channel's sums run over the cases that count it."""
    losses, by_channel = [], merged.q.unbind(1)
    for channel in merged.counted.any(0).nonzero().flatten().tolist():
        cases = merged.counted[:, channel]
        losses.append(1 - smoothed_overlap(by_channel[channel][cases], merged.target[cases] == channel))
    return torch.stack(losses).mean()


def smoothed_exclusion(p: Sequence[Tensor], e: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean over the penalised classes of the overlap that should not be; 0 without any.

    Args:
        p, e: probabilities and excluded voxels of every penalised class (exclusion.Exclusion).
        like: where a 0 without classes lies.

    A class with no excluded voxel counts as 0. The published form gives it 1 / (|p^2| + 1), which falls as the class
    grows where nothing is known of it.
    """
    overlaps = [smoothed_overlap(prob, mask) * mask.any() for prob, mask in zip(p, e, strict=True)]
    return torch.stack(overlaps).mean() if overlaps else like.new_zeros(())


def organ_against_rest(logits: Tensor, organ: Tensor) -> Tensor:
    """Cross entropy and Dice, added, of one organ against everything else: the loss of the auxiliary decoder.

    Args:
        logits: (M, 2, *S), rest and organ.
        organ: bool (M, *S).

    Returns:
        A scalar: mean over voxels of the cross entropy, plus the mean over both channels of 1 - overlap.
    """
    flat, is_organ = flat_logits(logits), plain(organ).flatten(1)
    p = flat.softmax(dim=1)
    overlaps = smoothed_overlap(p[:, 0], ~is_organ) + smoothed_overlap(p[:, 1], is_organ)
    return cross_entropy(flat, is_organ.long()) + 1 - overlaps / 2
