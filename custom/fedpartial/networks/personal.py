"""Personalised inference (METHODS 4.6): a site's own model for the classes it has, the global one for the rest.

The rule, voxel by voxel: the map of a class that the local model has is the local model's, that of every other class
the global model's; where a local and a global class claim the same voxel, the local one wins. A lesion lies inside its
organ (METHODS 4.1: an organ's map includes its lesions), so a global lesion in a local organ is no conflict. A label
map has one label for a voxel and shows the lesion; the map of the organ still has the voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedpartial.labels import LabelSpace
from fedpartial.networks.residual_unet import ABSENT

NO_LESIONS: Mapping[int, int] = MappingProxyType({})


class Personalised(nn.Module):
    """Two networks side by side, for inference only: (N, 2C, H, W, D), C local scores and then C global ones.

    ``own`` are the channels that the local network has; the global half has ABSENT there. ``organ_of`` gives the organ
    channel of every lesion channel. A universal network helps a lesion by relu(score of its organ); where the local
    network answers for the organ, the lesion stands alone and this help is taken off, or every voxel of the organ would
    become its lesion.
    """

    def __init__(self, local: nn.Module, global_: nn.Module, own: Sequence[int], organ_of: Mapping[int, int]):
        super().__init__()
        self.local, self.global_ = local, global_
        self.own, self.organ_of = tuple(own), dict(organ_of)

    @property
    def adds_nothing(self) -> bool:
        """Whether the local network has every class of the global one."""
        return set(self.global_.head_channels) <= set(self.own)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.local(image), self._rest(self.global_(image))], dim=1)

    def _rest(self, scores: Tensor) -> Tensor:
        """Global scores (N, C, *S) of the classes that the local network has not."""
        rest = scores.clone()
        for lesion, organ in self.organ_of.items():
            if organ in self.own:
                rest[:, lesion] -= scores[:, organ].relu()
        rest[:, list(self.own)] = ABSENT
        return rest


def personal_network(local: nn.Module, global_: nn.Module, space: LabelSpace) -> Personalised:
    """The network of personalised inference, in evaluation mode and frozen.

    Both networks score all channels of ``space`` in evaluation mode, 0 for background; ``head_channels`` are the
    channels that a network has. The scores are labels by ``decide_personal``, not by their argmax.
    """
    pair = Personalised(local, global_, local.head_channels, lesions_in_organs(space))
    return pair.eval().requires_grad_(False)


def lesions_in_organs(space: LabelSpace) -> dict[int, int]:
    """Lesion channel -> channel of its organ."""
    return {lesion: organ for organ, *lesions in space.organ_groups for lesion in lesions}


def decide_personal(scores: Tensor, lesions: Mapping[int, int] = NO_LESIONS) -> Tensor:
    """Labels (*S) from the scores (2C, *S) of a personalised network: the local label, else the global one.

    ``lesions`` (``lesions_in_organs``): a global lesion also replaces the local label of its organ, for a label map.
    Without it the voxels of a local class are exactly those of the local model, by which the class is scored.
    """
    local, rest = (half.argmax(dim=0) for half in scores.chunk(2))
    shown = local == 0
    for lesion, organ in lesions.items():
        shown |= (rest == lesion) & (local == organ)
    return torch.where(shown, rest, local)


class LocalFirst:
    """``decide_personal`` where a rule of fusion is asked for (networks/fusion.py): as a site is scored."""

    rule: ClassVar[str] = "local-first"

    def network(self, network: nn.Module) -> nn.Module:
        return network

    def decide(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        return decide_personal


PERSONAL = LocalFirst()
