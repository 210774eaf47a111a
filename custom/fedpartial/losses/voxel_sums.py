"""Sums over the voxels of a batch, slab by slab, with a gradient and without tensors as large as the batch.

Every loss of the Dice and cross entropy family is a small function of such sums. Forward they are added up slab by
slab; backward each slab is computed once more and gives its part of the gradient. Only the logits and their gradient
ever exist at full size, and a slab stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Statistics = Callable[..., Tensor]
VOXELS = {"cpu": 2**15, "cuda": 2**22}
"""Voxels in a slab; on a CPU for each thread."""


def plain(tensor: Tensor) -> Tensor:
    """The tensor without its subclass: MONAI's MetaTensor must not change a loss (upstream note U17)."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def at_least_float(tensor: Tensor) -> Tensor:
    """Contiguous, float64 where it is float64, else float32."""
    kind = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(kind, memory_format=torch.contiguous_format)


def voxel_sums(statistics: Statistics, logits: Tensor, *others: Tensor) -> Tensor:
    """Sum over all slabs of a case of what ``statistics`` returns: (N, K) float64, differentiable in ``logits``.

    Args:
        statistics: of (case number, logits (C, *s) float or better, and each of the others (..., *s')) of a slab, its
            sums (K,); computed twice, so it must be a function of its arguments.
        logits: (N, C, *S).
        others: tensors (N, ..., *S), or finer by a whole factor along every axis; they get no gradient.
    """
    return _VoxelSums.apply(statistics, plain(logits), *(plain(other) for other in others))


class _VoxelSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, statistics: Statistics, logits: Tensor, *others: Tensor) -> Tensor:
        ctx.statistics = statistics
        ctx.save_for_backward(logits, *others)
        return torch.stack([_of_case(statistics, n, logits, others) for n in range(len(logits))])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, *others = ctx.saved_tensors
        found = torch.empty_like(logits)
        for n in range(len(logits)):
            for place in _slabs(logits):
                z = at_least_float(_part(logits, n, place, logits)).requires_grad_()
                with torch.enable_grad():
                    sums = ctx.statistics(n, z, *(_part(o, n, place, logits) for o in others))
                    # A scalar: given the gradient of a vector, torch imports sympy to check its shape.
                    weighted = (sums * grad[n].to(sums.dtype)).sum()
                _part(found, n, place, logits).copy_(torch.autograd.grad(weighted, z)[0])
        return None, found, *(None for _ in others)


def _of_case(statistics: Statistics, n: int, logits: Tensor, others: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for place in _slabs(logits):
        z = at_least_float(_part(logits, n, place, logits))
        total = total + statistics(n, z, *(_part(o, n, place, logits) for o in others)).double()
    return total


def _slabs(logits: Tensor) -> Iterator[slice]:
    """Parts of the first spatial axis."""
    rows, voxels = logits.shape[2], VOXELS.get(logits.device.type, VOXELS["cuda"])
    if logits.device.type == "cpu":
        voxels *= torch.get_num_threads()
    step = max(voxels * rows // max(logits[0, 0].numel(), 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _part(tensor: Tensor, n: int, place: slice, logits: Tensor) -> Tensor:
    """The slab of one case; ``tensor`` may be finer than the logits."""
    axis = tensor.ndim - (logits.ndim - 2)
    factor = tensor.shape[axis] // logits.shape[2]
    return tensor[n].narrow(axis - 1, place.start * factor, (place.stop - place.start) * factor)
