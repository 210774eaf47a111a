"""The segmentation network of the ConDistFL family: MONAI's DynUNet with deep supervision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedpartial.networks.channels_last import InstanceNormLeakyReLU, PointwiseConv
from fedpartial.presets import Preset


def build_dynunet(preset: Preset, *, seed: int) -> nn.Module:
    """A DynUNet with the preset's shape and seeded initial weights; the caller's random state is kept.

    It returns logits (N, C, H, W, D); in training mode, with deep supervision, a tuple of logits (N, C, *S), one for
    each head: full resolution first, then each at its own, coarser by the strides of a step down. In evaluation mode
    the other heads are not computed. Tensors have MONAI's names.
    """
    # MONAI costs two seconds to import, and every simulated task may be a new process.
    from monai.networks.nets.dynunet import DynUNet

    class Network(DynUNet):
        """MONAI's layers; its forward pass would enlarge every head to full resolution and stack them."""

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
            return _forward(self, x)

    config = preset.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(
            spatial_dims=3,
            in_channels=1,
            out_channels=preset.label_space.num_channels,
            kernel_size=config.kernels,
            strides=config.strides,
            upsample_kernel_size=config.strides[1:],
            filters=config.filters,
            deep_supervision=config.deep_supervision_heads > 0,
            deep_supr_num=max(config.deep_supervision_heads, 1),
        )
        _for_channels_last(network)
    return network


def _forward(network: nn.Module, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    skips = []
    for down in (network.input_block, *network.downsamples):
        x = down(x)
        skips.append(x)
    x = network.bottleneck(x)
    heads = list(network.deep_supervision_heads) if network.training and network.deep_supervision else []
    outputs = []
    for level, up in reversed(list(enumerate(reversed(network.upsamples)))):
        x = up(x, skips.pop())
        if 0 < level <= len(heads):
            outputs.append(heads[level - 1](x))
    logits = network.output_block(x)
    return (logits, *reversed(outputs)) if heads else logits


def _for_channels_last(network: nn.Module) -> None:
    """Each norm takes over the activation that follows it, and the heads are matrix products."""
    from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock

    for block in network.modules():
        if isinstance(block, UnetBasicBlock):
            slope = block.lrelu.negative_slope
            block.norm1 = InstanceNormLeakyReLU(block.norm1, slope)
            block.norm2 = InstanceNormLeakyReLU(block.norm2, slope)
            block.lrelu = nn.Identity()
        elif isinstance(block, UnetOutBlock):
            block.conv.conv = PointwiseConv(block.conv.conv)
