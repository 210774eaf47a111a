"""The network of SegViz: MONAI's residual U-Net, split into a trunk and heads (METHODS 2.1).

MONAI's UNet has three children: the first level, everything below it, and the last two convolutional layers. The first
two are the trunk (the papers' representation block), the third is a head (their task block). Names of tensors:
``trunk.*`` and ``heads.<class>.*``, or ``heads.joint.*`` for one head with all channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.labels import LabelSpace
from fedpartial.presets import Preset, UNetConfig

JOINT = "joint"
"""Name of the head that has all channels of the label space."""
ABSENT = -1e4
"""Score of a class without a head: finite, also in half precision, and never the highest."""


class TrunkAndHeads(nn.Module):
    """One trunk and either one head for all channels or one head of two channels (background, class) for each class.

    In training mode a joint head returns logits (N, C, H, W, D), class heads return logits (N, heads, 2, H, W, D). In
    evaluation mode both return (N, C, H, W, D) whose argmax over C is the label: logits, or the scores of ``scores``.
    """

    def __init__(self, trunk: nn.Module, heads: nn.ModuleDict, label_space: LabelSpace):
        super().__init__()
        self.trunk, self.heads = trunk, heads
        self.num_channels = label_space.num_channels
        self.head_channels = tuple(label_space.index(name) for name in heads if name != JOINT)

    def forward(self, image: Tensor) -> Tensor:
        features = self.trunk(image)
        outputs = [head(features) for head in self.heads.values()]
        if not self.head_channels:
            return outputs[0]
        if self.training:
            return torch.stack(outputs, dim=1)
        return scores([log_odds(logits) for logits in outputs], self.head_channels, self.num_channels)


def log_odds(logits: Tensor) -> Tensor:
    """log p_fg - log p_bg of a two-channel head, (N, 2, *S) -> (N, *S), float32 or better; positive is foreground."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits[:, 1] - logits[:, 0]


def scores(odds: Sequence[Tensor], channels: Sequence[int], num_channels: int) -> Tensor:
    """(N, C, *S): 0 for background, the log-odds (N, *S) of each given channel, ABSENT for the others.

    Its argmax is the default fusion: the class with the highest log-odds, background where none is positive.
    """
    # shape, not len(): a program made by tracing would keep the number of images for ever.
    result = odds[0].new_full((odds[0].shape[0], num_channels, *odds[0].shape[1:]), ABSENT)
    result[:, 0] = 0.0
    for channel, values in zip(channels, odds, strict=True):
        result[:, channel] = values
    return result


def build_residual_unet(preset: Preset, *, seed: int, head_classes: Sequence[str] | None) -> TrunkAndHeads:
    """The preset's residual U-Net with one head for each of ``head_classes``, or a joint one for None.

    The trunk's initial weights follow from the seed, a head's from the seed and its class: it starts the same
    whatever other heads stand beside it. The caller's random state is kept.
    """
    config, space = preset.network, preset.label_space
    with torch.random.fork_rng(devices=[]):
        # The random numbers of the constructors are replaced: they depend on the number of channels.
        trunk, joint = _parts(config, space.num_channels if head_classes is None else 2)
        heads = {JOINT: joint} if head_classes is None else {name: _parts(config, 2)[1] for name in head_classes}
        _initialise(trunk, config, seed, "trunk")
        for name, head in heads.items():
            _initialise(head, config, seed, name)
    return TrunkAndHeads(trunk, nn.ModuleDict(heads), space)


def _parts(config: UNetConfig, out_channels: int) -> tuple[nn.Module, nn.Module]:
    """Trunk and head of a UNet with MONAI's own layers."""
    # MONAI costs two seconds to import, and every simulated task may be a new process.
    from monai.networks.nets.unet import UNet

    first, below, last = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=out_channels,
        channels=config.channels,
        strides=config.strides,
        num_res_units=config.num_res_units,
        norm="BATCH",
    ).model
    return nn.Sequential(first, below), last


def _initialise(part: nn.Module, config: UNetConfig, seed: int, name: str) -> None:
    """Draw the weights of a part anew, from the seed and the part's name."""
    torch.manual_seed(int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0]))
    for module in part.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if config.initialisation == "lecun" and isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            _lecun(module)


def _lecun(convolution: nn.Conv3d | nn.ConvTranspose3d) -> None:
    """Weights normal with variance 1 / fan-in (input channels times kernel voxels), biases 0."""
    fan_in = convolution.in_channels * int(np.prod(convolution.kernel_size))
    nn.init.normal_(convolution.weight, std=fan_in**-0.5)
    nn.init.zeros_(convolution.bias)
