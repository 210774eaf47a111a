"""A residual U-Net of milliseconds and random weights for it, for every test of private heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import PHANTOM, UNetConfig

SMALL = replace(
    PHANTOM,
    name="small",
    label_space=PHANTOM.label_space.merged,
    spacing_mm=(2.0, 2.0, 2.0),
    patch=(8, 8, 8),
    network=UNetConfig(channels=(4, 6, 8), strides=((2, 2, 2),) * 2, num_res_units=1, initialisation="default"),
)


def image(*shape: int) -> Tensor:
    """Two images (N, 1, H, W, D); 8 x 8 x 4 voxels by default."""
    return torch.randn(2, 1, *(shape or (8, 8, 4)), generator=torch.Generator().manual_seed(0))


def random_state(classes: list[str] | None, *, seed: int) -> dict[str, np.ndarray]:
    """The state of a site's network as after training: random everywhere, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    state = canonical_state(build_network(SMALL, seed=0, head_classes=classes))
    return {
        name: (torch.rand(t.shape, generator=generator) + 0.5 if "var" in name else _around(t, generator)).numpy()
        for name, t in state.items()
    }


def _around(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
