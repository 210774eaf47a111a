"""Intensity augmentation and flips of a batch; rotation and zoom happen while the patch is cut (sampler.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedpartial.data import intensities
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
    image, label = torch.empty_like(batch.image), torch.empty_like(batch.label)
    for number, (patch, its_label) in enumerate(zip(batch.image[:, 0], batch.label, strict=True)):
        changed = condistfl_intensities(patch, rng)
        flipped = [axis for axis in axes if rng.random() < 0.5]
        # Through NumPy, where a flip is a view: copied once, into its place in the batch.
        image[number, 0].numpy()[:] = np.flip(changed.numpy(), flipped)
        label[number].numpy()[:] = np.flip(its_label.numpy(), flipped)
    return replace(batch, image=image, label=label)


def condistfl_intensities(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The list's changes of a patch, float32 (H W D), each with its own probability."""
    if rng.random() < 0.15:
        image = intensities.add_noise(image, rng.uniform(0, 0.1), rng)
    if rng.random() < 0.15:
        image = intensities.blur(image, rng.uniform(0.5, 1.5, 3))
    if rng.random() < 0.15:
        image = intensities.scale(image, rng.uniform(0.7, 1.3))
    if rng.random() < 0.15:
        image = intensities.scale_in_range(image, rng.uniform(0.65, 1.5))
    if rng.random() < 0.25:
        image = intensities.lower_resolution(image, rng.uniform(0.5, 1.0))
    if rng.random() < 0.15:
        image = intensities.gamma(image, rng.uniform(0.8, 1.2))
    if rng.random() < 0.15:
        image = intensities.inverse_gamma(image, rng.uniform(0.8, 1.2))
    return image


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
