"""Losses by voxel besides cross entropy: focal and top-k, in marginal form (METHODS 3.1).

Focal: Lin et al., ICCV 2017. Top-k: the mean over the k voxels with the largest cross entropy (nnU-Net takes 10 %).
With every class labelled they are the plain forms.
"""

from __future__ import annotations

from torch import Tensor

from fedpartial.losses.marginal import Merged

LEAST_MISS = 1e-12
"""Below it 1 - q counts as this: a power below 1 has no finite slope at 0."""


def marginal_focal(merged: Merged, *, gamma: float = 2.0) -> Tensor:
    """Mean over voxels of -(1 - q)^gamma log q, q the probability of the voxel's merged label; a scalar."""
    log_q = merged.log_q.gather(1, merged.target[:, None])
    miss = (-log_q.expm1()).clamp(min=LEAST_MISS)
    return -(miss**gamma * log_q).mean()


def mean_of_largest(values: Tensor, fraction: float) -> Tensor:
    """Mean over the largest ``fraction`` of all values (any shape, at least one of them); a scalar."""
    k = max(1, int(fraction * values.numel()))
    return values.flatten().topk(k, sorted=False).values.mean()
