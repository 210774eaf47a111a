"""A universal network of milliseconds, of all classes of the phantom's label space or of some."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedpartial.networks.universal import UniversalNetwork, build_universal
from fedpartial.presets import GREAT_VESSELS, PHANTOM_MMDS, UniversalConfig

SMALL = replace(
    PHANTOM_MMDS,
    name="small",
    patch=(8, 8, 8),
    network=UniversalConfig(extractor="unet", channels=(4, 6, 8), embedding=16, global_features=8),
)
CLASSES = GREAT_VESSELS.classes


def small(*classes: str, seed: int = 0) -> UniversalNetwork:
    """Of these classes, all by default, in training mode."""
    return build_universal(SMALL, seed=seed, classes=classes or None).train()


def image(*shape: int) -> Tensor:
    """Two images (N, 1, H, W, D); 8 x 8 x 8 voxels by default."""
    return torch.randn(2, 1, *(shape or (8, 8, 8)), generator=torch.Generator().manual_seed(0))
