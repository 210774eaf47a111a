"""What a federated method is: an objective for the local steps of one round.

A method is composed from losses, never derived from a trainer. The server part of a method
(aggregation, server optimiser) is configured in the job's JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from torch import Tensor

from fedpartial.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """The objective (scalar with gradient) and its parts for the record."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What the server says about this round, and what a loss may look at besides the batch.

    groups: bool (G, C), the organ groups of the label space. parameters: the live parameters of the network in
    training; reference: the same of the global model, frozen, for a method that needs_reference, else empty.
    head_channels: the label space's channel of each private head, in the order of the outputs; empty for a joint head.
    pass_number: of the passes of one step, from 0.
    """

    round_number: int
    num_rounds: int
    groups: Tensor
    parameters: Sequence[Tensor] = ()
    reference: Sequence[Tensor] = ()
    head_channels: tuple[int, ...] = ()
    pass_number: int = 0


class Method(Protocol):
    """The objective of a method; built by FLARE from ``args.method`` of the job's JSON."""

    def needs_teacher(self, context: RoundContext) -> bool:
        """Whether this round's loss looks at the predictions of the frozen global model."""

    def needs_reference(self) -> bool:
        """Whether the loss looks at the parameters of the global model."""

    def needs_heads(self) -> bool:
        """Whether the objective is one of private heads; every other one is of a joint head."""

    def passes(self) -> int:
        """Passes of the network for one batch, each with an objective and an optimiser step of its own.

        With more than one the network says what a pass computes (``train_pass``), and ``loss`` is asked for each.
        """

    def loss(
        self,
        outputs: Sequence[Tensor],
        teacher_logits: Tensor | None,
        labels: Tensor,
        labelled: Tensor,
        context: RoundContext,
    ) -> LossTerms:
        """The objective of one batch.

        Args:
            outputs: logits (N, C, H, W, D) of every head, full resolution first; of private heads one tensor
                (N, heads, 2, H, W, D), in the order of ``context.head_channels``.
            teacher_logits: (N, C, H, W, D) of the global model, or None where not needed.
            labels: (N, H, W, D) channels.
            labelled: bool (N, C).
            context: round and groups.
        """


class Objective:
    """What most methods answer: no teacher, no reference, a joint head, one pass. A method says where it differs."""

    def needs_teacher(self, context: RoundContext) -> bool:
        return False

    def needs_reference(self) -> bool:
        return False

    def needs_heads(self) -> bool:
        return False

    def passes(self) -> int:
        return 1


def linear_ramp(start: float, end: float, round_number: int, num_rounds: int) -> float:
    """Linear over rounds 0..R-1; the end value when there is one round (METHODS 1.3)."""
    if num_rounds <= 1:
        return end
    return start + (end - start) * round_number / (num_rounds - 1)


def check_choice(field: str, value: object, choices: object, *, place: str = "args.method") -> None:
    """Raise ConfigError unless ``value`` is one of a Literal's values; JSON has no types to do it."""
    if value not in get_args(choices):
        raise ConfigError(
            where="job",
            field=f"{place}.{field}",
            got=value,
            expected=f"one of {', '.join(get_args(choices))}",
            remedy="Correct it in config_fed_client.json.",
        )
