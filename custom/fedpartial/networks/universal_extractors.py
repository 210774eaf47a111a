"""Feature extractors of the universal network (METHODS 4.1): image -> deepest features and full-resolution features.

Written from the specification. Where they differ from the published network: it normalises with the statistics of the
batch, in evaluation too, so a window's result would depend on the windows that lie beside it in the batch. Here every
image is normalised by itself: instance normalisation in the U-Net, group normalisation in SwinUNETR, whose deepest
features are a single voxel for a patch of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn

from fedpartial.errors import ConfigError
from fedpartial.presets import Preset

KERNEL = 3
GROUPS = 16
WINDOW, SMALL_WINDOW, LARGE_PATCH = 7, 4, 64
"""Edge of the windows of attention: MONAI's, and one for patches below 64, whose features 7 does not divide well. A
step of phantom_mmds_swin takes 0.5 s with it and 2.1 s with MONAI's."""
SWIN_MULTIPLE = 12
"""MONAI's SwinUNETR takes feature sizes that 12 divides."""


def group_count(channels: int) -> int:
    """Groups of a normalisation: 16 where that divides the channels, else their largest common divisor."""
    return gcd(GROUPS, channels)


def build_extractor(preset: Preset) -> nn.Module:
    """The preset's extractor; ``forward`` gives (f_d, f_0), their channels are ``deepest`` and ``full``.

    Raises ConfigError for channels that the extractor cannot have, and for a patch that its levels do not divide.
    """
    config = preset.network
    _check_channels(preset)
    _check_patch(preset, 2 ** len(config.strides))
    if config.extractor == "swin_unetr":
        window = WINDOW if max(preset.patch) >= LARGE_PATCH else SMALL_WINDOW
        return _build_swin(config.channels[0], window)
    return UNetExtractor(config.channels)


class UNetExtractor(nn.Module):
    """Levels of double convolutions: max pooling on the way down, transposed convolutions and skips on the way up."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.full, self.deepest = channels[0], channels[-1]
        self.down = nn.ModuleList(
            _double_convolution(inward, width // 2, width)
            for inward, width in zip((1, *channels), channels, strict=False)
        )
        steps = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(deep, width, 2, stride=2) for deep, width in steps)
        self.merge = nn.ModuleList(_double_convolution(2 * width, width, width) for _, width in steps)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W, D) -> (N, channels[-1], h, w, d), (N, channels[0], H, W, D)."""
        skips = [self.down[0](image)]
        for block in self.down[1:]:
            skips.append(block(nn.functional.max_pool3d(skips[-1], 2)))
        deepest = inward = skips.pop()
        for up, merge in zip(self.ups, self.merge, strict=True):
            inward = merge(torch.cat([skips.pop(), up(inward)], dim=1))
        return deepest, inward


def _double_convolution(inward: int, between: int, outward: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first, second in ((inward, between), (between, outward)):
        convolution = nn.Conv3d(first, second, KERNEL, padding=KERNEL // 2, bias=False)
        layers += [convolution, nn.InstanceNorm3d(second, affine=True), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SwinExtractor(nn.Module):
    """The layers of MONAI's SwinUNETR without its output layer, under MONAI's names."""

    def __init__(self, network: nn.Module, feature_size: int):
        super().__init__()
        self.full, self.deepest = feature_size, 16 * feature_size
        for name, part in network.named_children():
            if name != "out":
                self.add_module(name, part)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W, D), multiples of 32 -> (N, 16 F, H / 32, W / 32, D / 32), (N, F, H, W, D)."""
        hidden = self.swinViT(image, True)
        deepest = self.encoder10(hidden[4])
        inward = self.decoder5(deepest, hidden[3])
        inward = self.decoder4(inward, self.encoder4(hidden[2]))
        inward = self.decoder3(inward, self.encoder3(hidden[1]))
        inward = self.decoder2(inward, self.encoder2(hidden[0]))
        return deepest, self.decoder1(inward, self.encoder1(image))


def _build_swin(feature_size: int, window: int) -> SwinExtractor:
    # MONAI costs two seconds to import, and every simulated task may be a new process.
    from monai.networks.nets.swin_unetr import SwinUNETR

    norm = ("group", {"num_groups": group_count(feature_size)})
    sizes = {"in_channels": 1, "out_channels": 1, "feature_size": feature_size, "window_size": window}
    network = SwinUNETR(**sizes, norm_name=norm)
    return SwinExtractor(network, feature_size)


def _check_channels(preset: Preset) -> None:
    config = preset.network
    if config.extractor == "swin_unetr":
        good, expected = len(config.channels) == 1, f"one feature size, a multiple of {SWIN_MULTIPLE}"
        good = good and config.channels[0] > 0 and config.channels[0] % SWIN_MULTIPLE == 0
    else:
        good, expected = len(config.channels) > 1 and min(config.channels) > 1, "two levels at least, each wider than 1"
    if not good:
        raise _error(preset, "network.channels", config.channels, expected, "Correct the preset's network.")


def _check_patch(preset: Preset, factor: int) -> None:
    swin = preset.network.extractor == "swin_unetr"
    # Instance normalisation needs two voxels at least, which the deepest features of the U-Net have to be.
    if all(size % factor == 0 for size in preset.patch) and (swin or any(size > factor for size in preset.patch)):
        return
    expected = f"multiples of {factor}" + ("" if swin else ", one of them larger")
    raise _error(preset, "patch", preset.patch, expected, "Choose another patch, or fewer levels in network.channels.")


def _error(preset: Preset, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=f"preset {preset.name}", field=field, got=got, expected=expected, remedy=remedy)
