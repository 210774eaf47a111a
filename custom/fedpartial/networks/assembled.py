"""The assembled model: the heads of all sites in one network, and its flat state (METHODS 2.4).

A state holds the shared tensors under their own names, each site's private ones as ``<site>/<name>``, and
``<site>/num_training``, the weight of that site's heads where another site has a head for the same class. A site that
keeps part of its trunk (FedBN, or everything without any exchange) has a trunk pass of its own; the others share one.
The papers leave open what two heads of one class say together: here it is the weighted mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.residual_unet import TrunkAndHeads, log_odds, scores
from fedpartial.networks.split import HEADS, is_head
from fedpartial.presets import Preset

SEPARATOR = "/"
"""Between site and tensor; neither may contain it."""
NUM_TRAINING = "num_training"
COMMON = ""
"""Key of the trunk that sites without private trunk tensors share; no site has an empty name."""

State = Mapping[str, np.ndarray | Tensor]


def assemble(
    shared: Mapping[str, np.ndarray],
    private: Mapping[str, Mapping[str, np.ndarray]],
    num_training: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """The state of the assembled model from the shared tensors and, by site, the private ones and training cases."""
    state = dict(shared)
    for site, tensors in private.items():
        state |= {f"{site}{SEPARATOR}{name}": value for name, value in tensors.items()}
        state[f"{site}{SEPARATOR}{NUM_TRAINING}"] = np.array(num_training[site], dtype=np.float32)
    return state


def is_assembled(names: Iterable[str]) -> bool:
    """Whether the names of a state's tensors are those of an assembled model."""
    return any(SEPARATOR in name for name in names)


def build_assembled(preset: Preset, state: State) -> AssembledNetwork:
    """The assembled model with its weights, for inference only.

    Raises StateMismatch, naming site and tensor, for a state that is incomplete or of another preset.
    """
    shared = {name: value for name, value in state.items() if SEPARATOR not in name}
    groups: dict[str, TrunkGroup] = {}
    for site, private in _by_site(state).items():
        weight = _weight(site, private)
        member = _site_network(preset, site, shared, private)
        key = COMMON if all(is_head(name) for name in private) else site
        groups.setdefault(key, TrunkGroup(member.trunk)).add(member, weight)
    return AssembledNetwork(groups.values(), preset.label_space.num_channels).eval().requires_grad_(False)


def private_parts(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """By site, the private tensors of an assembled state under their own names; {} for another state."""
    parts = _by_site(state) if is_assembled(state) else {}
    return {site: {n: v for n, v in part.items() if n != NUM_TRAINING} for site, part in parts.items()}


class TrunkGroup(nn.Module):
    """A trunk, the heads that stand on it, and of each head its channel and its weight among heads of that channel."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList()
        self.channels: list[int] = []
        self.weights: list[float] = []

    def add(self, network: TrunkAndHeads, weight: float) -> None:
        """Take over the heads of a site's network, whose trunk equals this one."""
        self.heads.extend(network.heads.values())
        self.channels.extend(network.head_channels)
        self.weights.extend([weight] * len(network.heads))


class AssembledNetwork(nn.Module):
    """Scores (N, C, H, W, D), as the network of a site gives them in evaluation mode, from the heads of all sites.

    A class with one head has exactly that head's log-odds, a class with several those of their mean probability.
    """

    def __init__(self, groups: Iterable[TrunkGroup], num_channels: int):
        super().__init__()
        self.groups, self.num_channels = nn.ModuleList(groups), num_channels

    @property
    def head_channels(self) -> tuple[int, ...]:
        """The channels that have a head, in the order of the label space."""
        return tuple(sorted({channel for group in self.groups for channel in group.channels}))

    def each_head(self, image: Tensor) -> Iterator[tuple[int, float, nn.Module, Tensor]]:
        """Of every head: channel, weight, the module, and the features (N, F, h, w, d) that enter it."""
        for group in self.groups:
            features = group.trunk(image)
            for channel, weight, head in zip(group.channels, group.weights, group.heads, strict=True):
                yield channel, weight, head, features

    def forward(self, image: Tensor) -> Tensor:
        found: dict[int, list[tuple[float, Tensor]]] = {}
        for channel, weight, head, features in self.each_head(image):
            found.setdefault(channel, []).append((weight, log_odds(head(features))))
        return scores([_together(heads) for heads in found.values()], list(found), self.num_channels)


def _together(heads: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Log-odds of the weighted mean of the heads' foreground probabilities; those of a single head as they are."""
    if len(heads) == 1:
        return heads[0][1]
    weights, odds = [weight for weight, _ in heads], torch.stack([values for _, values in heads])
    log_weights = odds.new_tensor(weights).log().view(-1, *[1] * (odds.ndim - 1))
    foreground, background = ((log_weights + logsigmoid(sign * odds)).logsumexp(dim=0) for sign in (1, -1))
    return foreground - background


def _by_site(state: State) -> dict[str, dict[str, np.ndarray | Tensor]]:
    """The tensors of each site under their own names; sites in alphabetical order, whatever a file's order is."""
    sites: dict[str, dict[str, np.ndarray | Tensor]] = {}
    for full, value in sorted(state.items()):
        site, separator, name = full.partition(SEPARATOR)
        if separator:
            sites.setdefault(site, {})[name] = value
    if not sites:
        raise StateMismatch("no tensor of any site, so there is no head")
    return sites


def _weight(site: str, private: dict[str, np.ndarray | Tensor]) -> float:
    """Take the number of training cases out of a site's tensors."""
    given = np.asarray(private.pop(NUM_TRAINING, ()))
    if given.size != 1 or not 0 < given.item() < float("inf"):
        raise StateMismatch(
            f"site {site!r}: tensor {NUM_TRAINING!r}: got {given.tolist()}; expected one number above 0"
        )
    return given.item()


def _site_network(preset: Preset, site: str, shared: State, private: State) -> TrunkAndHeads:
    """The site's own network, with the weights it has in the state."""
    if both := sorted(shared.keys() & private.keys()):
        raise StateMismatch(f"site {site!r}: tensor {both[0]!r} is both shared and private")
    network = build_network(preset, seed=0, head_classes=_head_classes(preset, site, private))
    try:
        load_canonical(network, {**shared, **private})
    except StateMismatch as error:
        raise StateMismatch(f"site {site!r}: {error}") from None
    return network


def _head_classes(preset: Preset, site: str, private: State) -> list[str]:
    """The classes of the site's heads, in the order of the label space."""
    owners = {name.removeprefix(HEADS).partition(".")[0]: name for name in private if is_head(name)}
    classes = [name for name in preset.label_space.classes if name in owners]
    if foreign := sorted(owners.keys() - set(classes)):
        raise StateMismatch(f"site {site!r}: tensor {owners[foreign[0]]!r} belongs to no class of this label space")
    if not classes:
        raise StateMismatch(f"site {site!r}: no tensor of a head among {len(private)}")
    return classes
