"""FedProx: FedAvg's objective and a pull back to the global model (METHODS 1.4, 1.7).

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Eq 2: L = L_sup + mu/2 ||w - w_g||^2 over
the parameters; statistics of normalisation layers are not parameters. With mu 0 this is FedAvg, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.proximal import proximal_term
from fedpartial.methods.base import LossTerms, Objective, RoundContext
from fedpartial.methods.fedavg import FedAvg


@dataclass(frozen=True, kw_only=True)
class FedProx(Objective):
    """FedAvg's objective plus mu times half the squared distance to the global model (mu 0.01: FLARE's default)."""

    mu: float = 0.01
    supervised: FedAvg = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        if not 0 <= self.mu < float("inf"):
            raise ConfigError(
                where="job",
                field="args.method.mu",
                got=self.mu,
                expected="a number of at least 0",
                remedy="0.01 is FLARE's default; 0 is FedAvg.",
            )

    def needs_reference(self) -> bool:
        return self.mu > 0

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        supervised = self.supervised.loss(outputs, None, labels, labelled, context)
        if not context.reference:
            return supervised
        distance = proximal_term(context.parameters, context.reference)
        return LossTerms(total=supervised.total + self.mu * distance, parts={**supervised.parts, "proximal": distance})
