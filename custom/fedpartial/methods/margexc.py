"""Marginal and exclusion losses in any weighted combination: the objective of FL-PSMOS.

Liu, Sun, Zhou, "Multi-site organ segmentation with federated partial supervision and site adaptation" (METHODS
3.1-3.3); Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", MedIA 2021.
Objective: mean over heads (weights 2^-i) of the sum over losses t of m_t marginal_t + e_t exclusion_t. With marginal
Dice and CE of weight 1 and no exclusion this is FedAvg, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.combination import LOSS_NAMES, LossOptions, exclusion_losses, marginal_losses
from fedpartial.losses.deep_supervision import deep_supervision_weights
from fedpartial.losses.exclusion import Penalised
from fedpartial.losses.marginal import AbsentClass, CrossEntropyOn
from fedpartial.methods.base import LossTerms, Objective, RoundContext, check_choice
from fedpartial.methods.fedavg import Unlabelled, taken_for_background

PREFIX = "exclusion_"


def _paper() -> dict[str, float]:
    return {"dice": 1.0, "ce": 1.0, "lovasz": 1.0}


@dataclass(frozen=True, kw_only=True)
class MargExc(Objective):
    """Weights by the name of a loss (dice, ce, focal, topk, lovasz); what has weight 0 or no weight is not computed.

    marginal, exclusion: the paper's best three by default, all with weight 1. focal_gamma, topk_fraction: of the
    marginal forms, exclusion_gamma and exclusion_fraction: of the others. penalised: "unlabelled" or "all" (losses/
    exclusion.py). absent_class, squared, ce_on, unlabelled: as FedAvg; with unlabelled "background" every class counts
    as annotated, so nothing is excluded.
    """

    marginal: Mapping[str, float] = field(default_factory=_paper)
    exclusion: Mapping[str, float] = field(default_factory=_paper)
    focal_gamma: float = 2.0
    topk_fraction: float = 0.1
    exclusion_gamma: float = 2.0
    exclusion_fraction: float = 0.1
    penalised: Penalised = "unlabelled"
    absent_class: AbsentClass = "constant"
    squared: bool = False
    ce_on: CrossEntropyOn = "merged_prob"
    unlabelled: Unlabelled = "merged"

    def __post_init__(self) -> None:
        _check_weights("marginal", self.marginal, needed=True)
        _check_weights("exclusion", self.exclusion)
        for name in ("focal_gamma", "exclusion_gamma"):
            _check_number(name, getattr(self, name), 0, float("inf"), "a number of at least 0")
        for name in ("topk_fraction", "exclusion_fraction"):
            _check_number(name, getattr(self, name), 1e-9, 1.0, "a number above 0 and at most 1")
        check_choice("penalised", self.penalised, Penalised)
        check_choice("unlabelled", self.unlabelled, Unlabelled)
        check_choice("absent_class", self.absent_class, AbsentClass)
        check_choice("ce_on", self.ce_on, CrossEntropyOn)

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        if self.unlabelled == "background":
            labels, labelled = taken_for_background(labels, labelled)
        parts: dict[str, Tensor] = {}
        for weight, logits in zip(deep_supervision_weights(len(outputs)), outputs, strict=True):
            for name, value in self._of_head(logits, labels, labelled, context.groups).items():
                parts[name] = parts.get(name, 0.0) + weight * value
        weights = self._weights()
        first, *rest = (weights[name] * value for name, value in parts.items())
        return LossTerms(total=sum(rest, start=first), parts=parts)

    def _of_head(self, logits: Tensor, labels: Tensor, labelled: Tensor, groups: Tensor) -> dict[str, Tensor]:
        """Every part that has a weight, for the logits of one head."""
        parts = marginal_losses(logits, labels, labelled, _wanted(self.marginal), self._marginal_options)
        if wanted := _wanted(self.exclusion):
            found = exclusion_losses(
                logits, labels, labelled, groups, wanted, self._exclusion_options, penalised=self.penalised
            )
            parts |= {PREFIX + name: value for name, value in found.items()}
        return parts

    def _weights(self) -> dict[str, float]:
        return {**self.marginal, **{PREFIX + name: weight for name, weight in self.exclusion.items()}}

    @property
    def _marginal_options(self) -> LossOptions:
        return LossOptions(
            gamma=self.focal_gamma,
            fraction=self.topk_fraction,
            absent_class=self.absent_class,
            squared=self.squared,
            ce_on=self.ce_on,
        )

    @property
    def _exclusion_options(self) -> LossOptions:
        return LossOptions(gamma=self.exclusion_gamma, fraction=self.exclusion_fraction)


def _wanted(weights: Mapping[str, float]) -> tuple[str, ...]:
    """The losses to compute, in an order that does not depend on the JSON."""
    return tuple(name for name in LOSS_NAMES if weights.get(name, 0) > 0)


def _check_weights(name: str, weights: object, *, needed: bool = False) -> None:
    if not isinstance(weights, Mapping):
        raise _wrong(name, weights, "an object of weights by the name of a loss")
    for loss, weight in weights.items():
        if loss not in LOSS_NAMES:
            raise _wrong(name, loss, f"names among {', '.join(LOSS_NAMES)}")
        _check_number(f"{name}.{loss}", weight, 0, float("inf"), "a number of at least 0")
    if needed and not _wanted(weights):
        raise _wrong(name, dict(weights), "at least one weight above 0")


def _check_number(name: str, value: object, least: float, most: float, expected: str) -> None:
    if type(value) not in (int, float) or not least <= value <= most or value == float("inf"):
        raise _wrong(name, value, expected)


def _wrong(name: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        where="job",
        field=f"args.method.{name}",
        got=got,
        expected=expected,
        remedy="Correct it in config_fed_client.json.",
    )
