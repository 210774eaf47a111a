"""The losses of one private head, which has two channels: background and its class (SegViz, METHODS 2.2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from fedpartial.losses.marginal import DICE_SMOOTHING, flat_logits
from fedpartial.losses.voxel_sums import plain


def head_dice(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Softmax Dice loss: mean over the counted cases and both channels of 1 - (2 |py| + e) / (|p| + |y| + e).

    For one case after the other and with background, as MONAI's DiceLoss(softmax=True, to_onehot_y=True), which the
    papers' code uses; e is 1e-5.

    Args:
        logits: (N, 2, *S).
        target: bool (N, *S), the voxels of the head's class.
        counted: bool (N,), the cases that annotate the class.

    Returns:
        A scalar; 0 with a zero gradient when no case counts.
    """
    p = flat_logits(logits).softmax(dim=1)
    foreground = plain(target).flatten(1)
    y = foreground[:, None] == foreground.new_tensor([False, True])[:, None]
    overlap, size = (p * y).sum(-1), p.sum(-1) + y.sum(-1)
    loss = 1 - (2 * overlap + DICE_SMOOTHING) / (size + DICE_SMOOTHING)
    return _mean_of(loss.mean(1), counted)


def head_cross_entropy(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy, mean over the voxels of the counted cases; arguments and the empty case as for ``head_dice``."""
    loss = cross_entropy(flat_logits(logits), plain(target).flatten(1).long(), reduction="none")
    return _mean_of(loss.mean(1), counted)


def _mean_of(loss: Tensor, counted: Tensor) -> Tensor:
    """Mean of a loss by case (N,) over the counted ones; 0 without any."""
    return (loss * counted).sum() / counted.sum().clamp(min=1)
