"""The segmentation network of the ConDistFL family: MONAI's DynUNet with deep supervision."""

from __future__ import annotations

import torch
from torch import nn

from fedpartial.presets import Preset


def build_dynunet(preset: Preset, *, seed: int) -> nn.Module:
    """A DynUNet with the preset's shape and seeded initial weights; the caller's random state is kept.

    In training mode it returns (N, heads, C, H, W, D), every head at full resolution; in evaluation
    mode the logits (N, C, H, W, D).
    """
    # MONAI costs two seconds to import, and every simulated task may be a new process.
    from monai.networks.nets.dynunet import DynUNet

    config = preset.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DynUNet(
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
