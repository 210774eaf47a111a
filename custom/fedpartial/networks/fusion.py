"""How the heads of an assembled model become one label map (METHODS 2.4, which the papers leave open, and section 7).

log-odds: the class with the highest log-odds, background where none is positive. priority: the first class of a given
order whose head says foreground. uncertainty: Monte Carlo dropout, below. per-head: one binary mask for each class, so
that masks may overlap; the papers' tables are scored this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fedpartial.data.preprocess import highest
from fedpartial.errors import ConfigError, check_keys
from fedpartial.labels import LabelSpace
from fedpartial.networks.assembled import AssembledNetwork

Rule = Literal["log-odds", "priority", "uncertainty", "per-head"]
Decide = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """A rule and its options.

    priority: classes, the first wins; the others follow in the order of the label space. passes and dropout belong to
    the uncertainty rule, whose random numbers follow from the seed.
    """

    rule: Rule = "log-odds"
    priority: tuple[str, ...] = ()
    passes: int = 10
    dropout: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise _wrong("rule", self.rule, f"one of {', '.join(get_args(Rule))}", "Correct its spelling.")
        for field, good, expected in (
            ("passes", type(self.passes) is int and self.passes > 0, "a whole number from 1 on"),
            ("dropout", type(self.dropout) in (int, float) and 0 <= self.dropout < 1, "a number from 0 to below 1"),
            ("seed", type(self.seed) is int and self.seed >= 0, "a whole number from 0 on"),
        ):
            if not good:
                raise _wrong(field, getattr(self, field), expected, "Correct it.")
        if self.priority and self.rule != "priority":
            raise _wrong("priority", self.priority, f"none with the rule {self.rule}", "Choose the rule 'priority'.")
        if len(set(self.priority)) != len(self.priority):
            raise _wrong("priority", self.priority, "each class once", "Leave out the second one.")

    def network(self, network: nn.Module) -> nn.Module:
        """What the sliding window applies to a patch, and whose answer ``decide`` takes.

        "uncertainty" needs an assembled network; the other rules leave any network as it is.
        """
        if self.rule != "uncertainty":
            return network
        generator = torch.Generator().manual_seed(self.seed)
        return UncertaintyWeighted(network, passes=self.passes, dropout=self.dropout, generator=generator)

    def decide(self, space: LabelSpace) -> Decide:
        """From (C, *S) to labels (*S), or with "per-head" to masks (C, *S). ConfigError for an unknown class."""
        if unknown := [name for name in self.priority if name not in space.classes]:
            raise _wrong("priority", unknown[0], f"classes out of {', '.join(space.classes)}", "Correct its spelling.")
        if self.rule == "per-head":
            return masks_of_heads
        if self.rule != "priority":
            return highest
        order = [*self.priority, *(name for name in space.classes if name not in self.priority)]
        return by_priority([space.index(name) for name in order])


def read_fusion(given: Mapping) -> Fusion:
    """The fusion of a job's JSON or of a task; ConfigError for anything but a rule that makes one label map."""
    check_keys(given, list(Fusion.__dataclass_fields__), (), where="fusion")
    order = given.get("priority", ())
    if not isinstance(order, list | tuple) or not all(isinstance(name, str) for name in order):
        raise _wrong("priority", order, "a list of class names", 'For example ["spleen", "liver"].')
    fusion = Fusion(**{**given, "priority": tuple(order)})
    if fusion.rule == "per-head":
        raise _wrong("rule", fusion.rule, "a rule that makes one label map", "Reports score the heads' masks anyway.")
    return fusion


LOG_ODDS, PER_HEAD = Fusion(), Fusion(rule="per-head")


def masks_of_heads(scores: Tensor) -> Tensor:
    """Bool (C, *S) from scores (C, *S): where the head of each class says foreground; channel 0 is empty."""
    return scores > 0


def by_priority(order: Sequence[int]) -> Decide:
    """From scores (C, *S) to the first channel of ``order`` whose score is positive, else 0."""

    def decide(scores: Tensor) -> Tensor:
        label = torch.zeros_like(scores[0], dtype=torch.long)
        for channel in reversed(order):
            label = torch.where(scores[channel] > 0, channel, label)
        return label

    return decide


class UncertaintyWeighted(nn.Module):
    """Probabilities (N, C, H, W, D) from stochastic passes: FUNAvg's rule for heads of two channels (METHODS 7).

    Every head sees its features ``passes`` times through dropout. A class has the mean probability of the heads that
    predict it, background that of all heads, each scaled by 1 - uncertainty of its head. A class has to exceed this
    average background, which grows with the number of heads that see nothing: a stricter rule than log-odds.
    """

    def __init__(self, network: AssembledNetwork, *, passes: int, dropout: float, generator: torch.Generator):
        super().__init__()
        self.assembled, self.passes, self.dropout, self.generator = network, passes, dropout, generator

    def forward(self, image: Tensor) -> Tensor:
        found: dict[int, list[Tensor]] = {}
        for channel, _, head, features in self.assembled.each_head(image):
            p = self._probabilities(head, features)
            found.setdefault(channel, []).append(p[:, 1])
            found.setdefault(0, []).append(p[:, 0] * (1 - uncertainty(p)))
        result = found[0][0].new_zeros(len(image), self.assembled.num_channels, *found[0][0].shape[1:])
        for channel, values in found.items():
            result[:, channel] = torch.stack(values).mean(dim=0)
        return result

    def _probabilities(self, head: nn.Module, features: Tensor) -> Tensor:
        """Mean (N, 2, H, W, D) over the passes."""
        passes = (head(self._dropped(features)).float().softmax(dim=1) for _ in range(self.passes))
        return sum(passes) / self.passes

    def _dropped(self, features: Tensor) -> Tensor:
        """Dropout with this module's own random numbers, the same on every device."""
        keep = torch.rand(features.shape, generator=self.generator) >= self.dropout
        return features * keep.to(features.device) / (1 - self.dropout)


def uncertainty(mean: Tensor) -> Tensor:
    """Aleatoric plus epistemic uncertainty, summed over the classes, from mean probabilities: (N, K, *S) -> (N, *S).

    Per class mean p(1 - p) and mean p^2 - (mean p)^2; their sum is mean p - (mean p)^2, whatever the passes are.
    """
    return (mean * (1 - mean)).sum(dim=1)


def _wrong(field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="fusion", field=field, got=got, expected=expected, remedy=remedy)
