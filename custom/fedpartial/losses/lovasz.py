"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018), in marginal form (METHODS 3.1).

For one class with P foreground voxels and errors m, sorted from the largest: sum of m times the growth of the Jaccard
loss as voxel after voxel is counted as wrong. With a voxel's rank among the others that growth has a closed form:

    foreground: 1 / (P + number of background voxels with larger errors)
    background: (P - number of foreground voxels with larger errors) / (U (U - 1)), U = P + its rank in the background

which unlike differences of cumulated sums loses no digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpartial.losses.marginal import Merged


def marginal_lovasz(merged: Merged) -> Tensor:
    """Mean of the Lovász-Jaccard loss over the merged channels that occur in the batch; a scalar.

    A channel's voxels are those of the cases that count it, the merged background's those of all cases.
    """
    probabilities, foregrounds = [], []
    for channel, (q, counted) in enumerate(zip(merged.q.unbind(1), merged.counted.unbind(1), strict=True)):
        foreground = (merged.target == channel) & counted[:, None]
        if foreground.any():
            every = bool(counted.all())
            probabilities.append(q if every else q[counted])
            foregrounds.append(foreground if every else foreground[counted])
    return lovasz_jaccard(probabilities, foregrounds).mean()


def lovasz_jaccard(probabilities: Sequence[Tensor], foregrounds: Sequence[Tensor]) -> Tensor:
    """The loss of each of K classes: its value on the errors |foreground - probability|, exact with its gradient.

    Args:
        probabilities: K tensors of any shape, float32 or float64, in [0, 1].
        foregrounds: K bool tensors of the same shapes; a class without foreground has loss 0 and gradient 0.

    Returns:
        (K,). Where errors are equal, their order and so the gradient is one of several possible.
    """
    return _LovaszJaccard.apply(tuple(foregrounds), *probabilities)


class _LovaszJaccard(torch.autograd.Function):
    """The gradient is a by-product of the value, so it is computed with it and kept."""

    @staticmethod
    def forward(ctx, foregrounds: tuple[Tensor, ...], *probabilities: Tensor) -> Tensor:
        found = [_value_and_gradient(p, y) for p, y in zip(probabilities, foregrounds, strict=True)]
        ctx.save_for_backward(*(gradient for _, gradient in found))
        return torch.stack([value for value, _ in found])

    @staticmethod
    def backward(ctx, of_values: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(d * gradient for d, gradient in zip(of_values.unbind(), ctx.saved_tensors, strict=True))


def _value_and_gradient(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of one class, a scalar, and its derivative by p (the shape of p)."""
    shape, p, y = p.shape, p.flatten(), y.flatten()
    errors, order = torch.where(y, 1 - p, p).sort(descending=True)
    growth = _growth(y[order])
    value = torch.dot(errors, growth.to(errors.dtype))
    gradient = torch.empty_like(p).scatter_(0, order, growth.to(p.dtype))
    return value, torch.where(y, -gradient, gradient).view(shape)


def _growth(y: Tensor) -> Tensor:
    """Growth of the Jaccard loss with each voxel, in float64; y bool (V,) in the order of falling errors."""
    found = y.cumsum(0)
    num_foreground = found[-1]
    union = num_foreground + torch.arange(1, len(y) + 1, device=y.device) - found
    of_background = (num_foreground - found) / (union.double() * (union - 1)).clamp(min=1)
    return torch.where(y, 1 / union.double().clamp(min=1), of_background)
