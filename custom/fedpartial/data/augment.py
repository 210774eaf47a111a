"""Intensity augmentation and flips of a batch; rotation and zoom happen while the patch is cut (sampler.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.sampler import Batch
from fedpartial.presets import Preset


def augment(batch: Batch, preset: Preset, rng: np.random.Generator) -> Batch:
    """The preset's augmentation; all randomness comes from ``rng``.

    "none": unchanged. "light": intensities only. "condistfl" and "segviz": the lists of METHODS 1.5 and 2.5, except
    what the sampler does. The label changes only by flips, together with the image.
    """
    return LEVELS[preset.augmentation](batch, preset, rng)


def _none(batch: Batch, preset: Preset, rng: np.random.Generator) -> Batch:
    return batch


def _light(batch: Batch, preset: Preset, rng: np.random.Generator) -> Batch:
    """Brightness, contrast, gamma and noise, mild, for every patch."""
    image = torch.stack([_light_image(image, preset, rng) for image in batch.image])
    return replace(batch, image=image)


def _light_image(image: Tensor, preset: Preset, rng: np.random.Generator) -> Tensor:
    width = (preset.window_hu[1] - preset.window_hu[0]) / preset.normalise_divide
    gamma, contrast, shift = rng.uniform(0.85, 1.15), rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
    unit = ((image - preset.air) / width).clamp_(0, 1).pow_(float(gamma))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.1))
    image = unit * width + preset.air
    mean = image.mean()
    return (image - mean) * float(contrast) + mean + float(shift) + torch.from_numpy(noise)


def _condistfl(batch: Batch, preset: Preset, rng: np.random.Generator) -> Batch:
    """METHODS 1.5 in its order: noise, blur, brightness, contrast, low resolution, gamma twice, flips.

    Where right and left are classes nobody is mirrored from right to left (axis 0): the labels would be wrong.
    """
    axes = (1, 2) if preset.label_space.sided else (0, 1, 2)
    pairs = [_condistfl_patch(i, y, axes, rng) for i, y in zip(batch.image, batch.label, strict=True)]
    return replace(batch, image=torch.stack([p[0] for p in pairs]), label=torch.stack([p[1] for p in pairs]))


def _condistfl_patch(
    image: Tensor, label: Tensor, flipped: tuple[int, ...], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    intensities = _condistfl_intensities()
    intensities.set_random_state(seed=int(rng.integers(2**32)))
    image = intensities(image)
    axes = [axis for axis in flipped if rng.random() < 0.5]
    return image.flip([axis + 1 for axis in axes]), label.flip(axes)


@cache
def _condistfl_intensities() -> Callable:
    """MONAI's transforms, built once; importing them takes seconds, so only this level pays."""
    from monai import transforms as mt

    return mt.Compose(
        [
            mt.RandGaussianNoise(prob=0.15, std=0.1),
            mt.RandGaussianSmooth(prob=0.15, sigma_x=(0.5, 1.5), sigma_y=(0.5, 1.5), sigma_z=(0.5, 1.5)),
            mt.RandScaleIntensity(prob=0.15, factors=(-0.3, 0.3)),
            mt.RandScaleIntensityFixedMean(prob=0.15, factors=(-0.35, 0.5), fixed_mean=False, preserve_range=True),
            mt.RandSimulateLowResolution(prob=0.25, zoom_range=(0.5, 1.0)),
            mt.RandAdjustContrast(prob=0.15, gamma=(0.8, 1.2)),
            mt.RandAdjustContrast(prob=0.15, gamma=(0.8, 1.2), invert_image=True),
            mt.ToTensor(dtype=torch.float32, track_meta=False),
        ]
    )


def _segviz(batch: Batch, preset: Preset, rng: np.random.Generator) -> Batch:
    """Every patch brighter or darker by up to a tenth, then shifted by up to 0.1, the SegViz window being 1 wide.

    The elastic deformation that the first paper mentions is in none of its code, and not here.
    """
    shape = (len(batch.image), 1, 1, 1, 1)
    factor, shift = (torch.from_numpy(rng.uniform(-0.1, 0.1, shape).astype(np.float32)) for _ in range(2))
    return replace(batch, image=batch.image * (1 + factor) + shift)


LEVELS: dict[str, Callable[[Batch, Preset, np.random.Generator], Batch]] = {
    "none": _none,
    "light": _light,
    "condistfl": _condistfl,
    "segviz": _segviz,
}
