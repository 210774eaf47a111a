"""Deep-supervision heads: their weights, halved per level and summing to one (METHODS 1.1), and their resolution."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def deep_supervision_weights(num_heads: int) -> tuple[float, ...]:
    """2^-i / sum, the full-resolution head first."""
    total = sum(2.0**-i for i in range(num_heads))
    return tuple(2.0**-i / total for i in range(num_heads))


def enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, C, *s) at the resolution of labels (N, *S), each repeated for its block, for losses that need it."""
    shape = labels.shape[1:]
    return logits if logits.shape[2:] == shape else interpolate(logits, size=tuple(shape), mode="nearest")
