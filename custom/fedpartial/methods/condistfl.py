"""ConDistFL: marginal supervision plus conditional distillation from the global model.

Wang et al., "ConDistFL: Conditional Distillation for Federated Learning from Partially Annotated Data",
MICCAI DeCaF 2023. Objective (Eq 9): L = L_sup + lambda_r L_ConDist on the full-resolution head, lambda
linear over rounds. With both ends of lambda at 0 this is FedAvg, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.conditional_distillation import Conditional, Denominator, conditional_distillation
from fedpartial.methods.base import LossTerms, Objective, RoundContext, check_choice, linear_ramp
from fedpartial.methods.fedavg import FedAvg


@dataclass(frozen=True, kw_only=True)
class ConDistFL(Objective):
    """FedAvg's objective plus the ramped distillation term (defaults: the paper; METHODS 1.2-1.3)."""

    temperature: float = 0.5
    weight_start: float = 0.01
    weight_end: float = 1.0
    denominator: Denominator = "linear"
    conditional: Conditional = "exact"
    supervised: FedAvg = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        check_choice("denominator", self.denominator, Denominator)
        check_choice("conditional", self.conditional, Conditional)
        if not self.temperature > 0:
            raise ConfigError(
                where="job",
                field="args.method.temperature",
                got=self.temperature,
                expected="a number above 0",
                remedy="0.5 sharpens as the paper says; 2.0 is what the published code used.",
            )

    def weight(self, context: RoundContext) -> float:
        return linear_ramp(self.weight_start, self.weight_end, context.round_number, context.num_rounds)

    def needs_teacher(self, context: RoundContext) -> bool:
        return self.weight(context) != 0

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        supervised = self.supervised.loss(outputs, None, labels, labelled, context)
        if teacher_logits is None:
            return supervised
        condist = conditional_distillation(
            outputs[0],
            teacher_logits,
            labels,
            labelled,
            context.groups,
            temperature=self.temperature,
            denominator=self.denominator,
            conditional=self.conditional,
        )
        total = supervised.total + self.weight(context) * condist
        return LossTerms(total=total, parts={**supervised.parts, "condist": condist})
