"""The proximal term of FedProx: half the squared distance to the global model (METHODS 1.4)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def proximal_term(parameters: Iterable[Tensor], reference: Iterable[Tensor]) -> Tensor:
    """0.5 * sum ||w - w_g||^2, a scalar whose gradient is the distance itself."""
    terms = [(p - r.detach()).square().sum() for p, r in zip(parameters, reference, strict=True)]
    return 0.5 * sum(terms[1:], start=terms[0])
