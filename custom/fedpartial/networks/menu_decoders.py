"""The two decoders of MENU-Net (METHODS 5) and the block that all its parts are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KERNEL = 3


def double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: convolution 3^3, instance normalisation without parameters, leaky ReLU."""
    layers: list[nn.Module] = []
    for inward in (in_channels, out_channels):
        convolution = nn.Conv3d(inward, out_channels, KERNEL, padding=KERNEL // 2)
        layers += [convolution, nn.InstanceNorm3d(out_channels), nn.LeakyReLU(inplace=True)]
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """From the features of all encoders to the logits of all channels.

    ``side_outputs`` are the four heads for deep supervision of the published network: they belong to its size, but no
    loss and no prediction uses them, there or here.
    """

    def __init__(self, widths: Sequence[int], num_channels: int):
        """``widths``: channels of each level over all encoders, full resolution first."""
        super().__init__()
        outward = [*reversed(widths), widths[0]]
        inward = [widths[-1], *(2 * width for width in outward[:-1])]
        self.blocks = nn.ModuleList(double_convolution(i, o) for i, o in zip(inward, outward, strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(width, width, 2, stride=2) for width in outward[:-1])
        self.output = nn.Conv3d(widths[0], num_channels, 1)
        self.side_outputs = nn.ModuleList(nn.Conv3d(width, num_channels, 1) for width in outward[:-1])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of every level, full resolution first, and the deepest ones pooled -> logits (N, C, H, W, D)."""
        *levels, inward = features
        for level, block, up in zip(reversed(levels), self.blocks, self.ups, strict=False):
            inward = torch.cat([level, up(block(inward))], dim=1)
        return self.output(self.blocks[-1](inward))


class AuxiliaryDecoder(nn.Module):
    """AGD: a double convolution and two logits for every level of one encoder, at full resolution."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        width = channels[0]
        self.levels = nn.ModuleList(
            nn.Sequential(double_convolution(inward, width), nn.Conv3d(width, 2, 1)) for inward in channels
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of every level of one encoder -> logits (N, levels, 2, H, W, D): rest and organ."""
        logits = [level(inward) for level, inward in zip(self.levels, features, strict=True)]
        size = logits[0].shape[2:]
        return torch.stack([logits[0], *(_enlarged(coarse, size) for coarse in logits[1:])], dim=1)


def _enlarged(logits: Tensor, size: torch.Size) -> Tensor:
    return nn.functional.interpolate(logits, size=size, mode="trilinear", align_corners=False)
