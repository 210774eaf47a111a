"""The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018), in marginal form (METHODS 3.1).

For one class with P foreground voxels and errors m, sorted from the largest: sum of m times the growth of the Jaccard
loss as voxel after voxel is counted as wrong. With a voxel's rank among the others that growth has a closed form:

    foreground: 1 / (P + number of background voxels with larger errors)
    background: (P - number of foreground voxels with larger errors) / (U (U - 1)), U = P + its rank in the background

which unlike differences of cumulated sums loses no digits. On a CPU in float32 NumPy sorts: error and position in one
64-bit integer, an eighth of the time of torch.sort (benchmarks/lovasz.py). Elsewhere torch does everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def marginal_lovasz(q: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean of the Lovász-Jaccard loss over the channels that occur in the batch; a scalar.

    Args:
        q: (N, C, V) probabilities, merged (``Merged.q``), or plain ones where everything is annotated.
        target: (N, V) channels.
        counted: bool (N, C); a channel's voxels are those of the cases that count it.
    """
    probabilities, foregrounds = [], []
    for channel, (p, counts) in enumerate(zip(q.unbind(1), counted.unbind(1), strict=True)):
        foreground = (target == channel) & counts[:, None]
        if foreground.any():
            every = bool(counts.all())
            probabilities.append(p if every else p[counts])
            foregrounds.append(foreground if every else foreground[counts])
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
        found = _of_classes(probabilities, foregrounds)
        ctx.save_for_backward(*(gradient for _, gradient in found))
        return torch.stack([value for value, _ in found])

    @staticmethod
    def backward(ctx, of_values: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(d * gradient for d, gradient in zip(of_values.unbind(), ctx.saved_tensors, strict=True))


def _of_classes(probabilities: Sequence[Tensor], foregrounds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient of each class; on a CPU as many classes at a time as torch has threads."""
    if probabilities[0].device.type != "cpu" or probabilities[0].dtype != torch.float32:
        return [_by_torch(p, y) for p, y in zip(probabilities, foregrounds, strict=True)]
    threads = min(torch.get_num_threads(), len(probabilities))
    if threads == 1:
        return [_by_numpy(p, y) for p, y in zip(probabilities, foregrounds, strict=True)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_by_numpy, probabilities, foregrounds))


def _by_torch(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of one class, a scalar, and its derivative by p (the shape of p); sorts everything."""
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


def _by_numpy(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_by_torch``, for float32 on a CPU and fewer than 2^31 voxels."""
    shape, p, y = p.shape, p.detach().numpy().ravel(), y.numpy().ravel()
    signed = np.subtract(p, y, dtype=np.float32)
    positions, is_foreground = _falling(np.abs(signed), y)
    gradient = np.empty_like(p)
    gradient[positions] = _slopes(is_foreground, np.count_nonzero(y))
    value = np.multiply(signed, gradient, out=signed).sum()
    return torch.tensor(value), torch.from_numpy(gradient).view(shape)


def _falling(errors: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (V,) in the order of falling errors and whether each is foreground (V,).

    Bits of floats from 0 to 1 sort as the floats do, so one 64-bit integer holds error, position and y. Equal
    errors come in the order of falling positions, whatever sorts.
    """
    keys = np.empty(len(errors), dtype="<i8")
    halves = keys.view("<u4").reshape(-1, 2)
    halves[:, 1] = errors.view(np.uint32)
    np.add(np.arange(0, 2 * len(errors), 2, dtype=np.uint32), y, out=halves[:, 0])
    keys.sort()
    low = halves[::-1, 0]
    return (low >> 1).astype(np.intp), (low & 1).astype(bool)


def _slopes(y: np.ndarray, num_foreground: int) -> np.ndarray:
    """``_growth``, below 0 for foreground, in few passes over memory.

    Single precision is enough: counts below 2^24 are exact in it.
    """
    found = np.cumsum(y, dtype=np.int32)
    union = np.arange(num_foreground + 1, num_foreground + 1 + len(y), dtype=np.int32)
    union -= found
    union = union.astype(np.float32)
    slopes = (num_foreground - found).astype(np.float32)
    slopes /= union
    slopes /= np.maximum(union - 1, 1)
    return np.where(y, -1 / union, slopes)
