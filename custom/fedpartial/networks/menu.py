"""MENU-Net (METHODS 5): an encoder for every organ, one shared decoder, an auxiliary generic decoder (AGD).

Xu, Deng, Gateno, Yan, "Federated multi-organ segmentation with inconsistent labels", IEEE TMI 2023. Every encoder looks
at the image; the decoder sees the features of all of them, level by level. The AGD, one for all organs, sees those of
one encoder and tells its organ from the rest, so that an encoder learns its organ whatever the others do. A site trains
the encoders of the organs it annotates. Names of tensors: ``encoders.<organ>.*``, ``decoder.*``, ``agd.*``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpartial.errors import ConfigError
from fedpartial.networks.classes import organ_classes
from fedpartial.networks.menu_decoders import AuxiliaryDecoder, Decoder, double_convolution
from fedpartial.networks.part_seed import part_seed
from fedpartial.presets import Preset

WHOLE, AUXILIARY = 0, 1
"""Numbers of the passes of one training step."""


@dataclass(frozen=True, kw_only=True)
class OrganOutput:
    """What the AGD says about one organ.

    channels: those of the organ. cases: bool (N,), the cases of the batch that annotate it, M of them.
    logits: (M, levels, 2, H, W, D), rest and organ, full resolution first.
    """

    channels: tuple[int, ...]
    cases: Tensor
    logits: Tensor


class Encoder(nn.ModuleList):
    """Double convolutions, one per level, each halved by max pooling."""

    def __init__(self, channels: Sequence[int]):
        super().__init__(double_convolution(i, o) for i, o in zip((1, *channels), channels, strict=False))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 1, H, W, D) -> features of every level before pooling, full resolution first, and the deepest pooled."""
        features, inward = [], image
        for block in self:
            features.append(block(inward))
            inward = nn.functional.max_pool3d(features[-1], 2)
        return [*features, inward]


class MenuNet(nn.Module):
    """Encoders by the name of their organ, decoder and AGD; forward gives logits (N, C, H, W, D) of all channels."""

    def __init__(self, channels: Sequence[int], organ_channels: Mapping[str, tuple[int, ...]], num_channels: int):
        super().__init__()
        self.organ_channels = dict(organ_channels)
        self.encoders = nn.ModuleDict({organ: Encoder(channels) for organ in self.organ_channels})
        self.decoder = Decoder([len(self.encoders) * width for width in channels], num_channels)
        self.agd = AuxiliaryDecoder(channels)

    def forward(self, image: Tensor) -> Tensor:
        return self._decode([encoder(image) for encoder in self.encoders.values()])

    def train_pass(self, image: Tensor, labelled: Tensor, pass_number: int) -> tuple[Tensor | OrganOutput, ...]:
        """What a pass of a training step looks at.

        Args:
            image: (N, 1, H, W, D).
            labelled: bool (N, C). A case annotates an organ if it annotates any class of it.
            pass_number: WHOLE, the logits (N, C, H, W, D) with gradients into the decoder and, from each case, into the
                encoders of the organs that the case annotates; AUXILIARY, the AGD's output for each organ that some
                case annotates.
        """
        annotated = {organ: labelled[:, list(channels)].any(1) for organ, channels in self.organ_channels.items()}
        if pass_number == WHOLE:
            return (self._decode([self._features(organ, image, cases) for organ, cases in annotated.items()]),)
        return tuple(self._auxiliary(organ, image, cases) for organ, cases in annotated.items() if cases.any())

    def _decode(self, features: list[list[Tensor]]) -> Tensor:
        return self.decoder([torch.cat(level, dim=1) for level in zip(*features, strict=True)])

    def _features(self, organ: str, image: Tensor, cases: Tensor) -> list[Tensor]:
        """An organ's features, without a gradient from the cases that do not annotate it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(cases.any())):
            features = self.encoders[organ](image)
        if cases.all() or not cases.any():
            return features
        return [torch.where(cases.view(-1, 1, 1, 1, 1), level, level.detach()) for level in features]

    def _auxiliary(self, organ: str, image: Tensor, cases: Tensor) -> OrganOutput:
        features = self.encoders[organ](image if cases.all() else image[cases])[:-1]
        return OrganOutput(channels=self.organ_channels[organ], cases=cases, logits=self.agd(features))


def build_menu(preset: Preset, *, seed: int) -> MenuNet:
    """The preset's MENU-Net; weights of a part follow from the seed and its name. The caller's random state is kept.

    Raises ConfigError for a patch that cannot be halved once per level.
    """
    space, channels = preset.label_space, preset.network.channels
    _check_patch(preset, 2 ** len(channels))
    organs = {organ: tuple(map(space.index, classes)) for organ, classes in organ_classes(space).items()}
    with torch.random.fork_rng(devices=[]):
        network = MenuNet(channels, organs, space.num_channels)
        parts = {"decoder": network.decoder, "agd": network.agd}
        for name, part in {**parts, **{f"encoders.{organ}": e for organ, e in network.encoders.items()}}.items():
            _initialise(part, part_seed(seed, name))
    return network


def _initialise(part: nn.Module, seed: int) -> None:
    """Xavier's normal weights and no bias, as published; transposed convolutions as torch draws them."""
    torch.manual_seed(seed)
    for module in part.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.ConvTranspose3d):
            module.reset_parameters()


def _check_patch(preset: Preset, factor: int) -> None:
    if all(size % factor == 0 for size in preset.patch) and any(size > factor for size in preset.patch):
        return
    raise ConfigError(
        where=f"preset {preset.name}",
        field="patch",
        got=preset.patch,
        expected=f"multiples of {factor}, one of them larger: every level of MENU-Net halves the patch",
        remedy="Choose another patch, or fewer entries in network.channels.",
    )
