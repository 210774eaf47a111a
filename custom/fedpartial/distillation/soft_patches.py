"""Patches of public volumes with the chosen probability maps as targets, as a pure function of (seed, step).

A distillation that was killed goes on with the same patches. Only patches are read from the memory-mapped files.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.augment import augment
from fedpartial.data.cutting import cut
from fedpartial.data.sampler import (
    AUGMENTATION,
    PATCHES,
    Batch,
    patch_centre,
    patch_start,
    step_rng,
    volumes_of_step,
)
from fedpartial.data.stored_case import StoredCase
from fedpartial.distillation.probability_files import STEPS, ProbabilityMap
from fedpartial.errors import ConfigError
from fedpartial.presets import Preset

NAME = "distillation"
"""Stands where a site's name stands in the random streams of its patches."""


@dataclass(frozen=True, kw_only=True)
class SoftBatch:
    """image float32 (N 1 H W D), target float32 probabilities (N K H W D), has bool (N K): which have a teacher."""

    image: Tensor
    target: Tensor
    has: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftVolume:
    """A public volume and the chosen map of each class; None for a class that no teacher has looked for in it."""

    case: StoredCase
    maps: tuple[ProbabilityMap | None, ...]

    @property
    def present(self) -> tuple[int, ...]:
        """Numbers of the classes that the chosen maps see in it."""
        return tuple(i for i, found in enumerate(self.maps) if found is not None and found.entropy.fg_voxels)

    def foreground(self, channel: int) -> np.ndarray:
        """Voxel indices (n, 3) of the predicted foreground of a class in ``present``."""
        return self.maps[channel].foreground


class SoftSampler:
    """Draws batches from public volumes, in the manner of PatchSampler.

    Each epoch goes through a new permutation of the volumes. With probability ``foreground_fraction`` a patch contains
    a voxel of predicted foreground, near its middle, of a class drawn uniformly from those the chosen maps see in the
    volume. Intensities (and flips, where the preset has some) are augmented; nothing is turned or zoomed, because that
    would read more of every map than the patch.
    """

    def __init__(self, volumes: Sequence[SoftVolume], preset: Preset, *, seed: int):
        if not volumes:
            raise ConfigError(
                where="public volumes", field="training", got="none", expected="at least one", remedy="Add images."
            )
        self.volumes, self.preset = tuple(volumes), preset
        self._entropy = (seed, zlib.crc32(NAME.encode()))

    def rng(self, stream: int, counter: int) -> np.random.Generator:
        """The generator of one stream at one step or epoch."""
        return step_rng(self._entropy, stream, counter)

    def batch(self, step: int) -> SoftBatch:
        """The patches of a step; N = volumes_per_batch * patches_per_volume, patches of a volume together."""
        rng, patches, has = self.rng(PATCHES, step), [], []
        for volume in volumes_of_step(self.volumes, self.preset.volumes_per_batch, step, self.rng):
            for _ in range(self.preset.patches_per_volume):
                patches.append(self._patch(volume, rng))
                has.append([found is not None for found in volume.maps])
        image, target = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*patches, strict=True))
        image, target = self._augmented(image, target, self.rng(AUGMENTATION, step))
        return SoftBatch(image=image, target=target.float() / STEPS, has=torch.tensor(has))

    def _patch(self, volume: SoftVolume, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image float32 (1 H W D) and quantised targets uint8 (K H W D); outside of the volume air and 0."""
        preset, shape = self.preset, volume.case.image.shape
        start = patch_start(patch_centre(volume, preset, rng), shape, preset.patch, rng)
        image = cut(volume.case.image, start, preset.patch, np.float32(preset.air))
        none = np.zeros(preset.patch, dtype=np.uint8)
        targets = [none if m is None else cut(m.quantised, start, preset.patch, np.uint8(0)) for m in volume.maps]
        return image[None], np.stack(targets)

    def _augmented(self, image: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The preset's augmentation. It moves a number for every voxel like a label, and the targets follow them."""
        places = torch.arange(image[0].numel()).reshape(image.shape[2:]).repeat(len(image), 1, 1, 1)
        batch = augment(Batch(image=image, label=places, labelled=torch.empty(0)), self.preset, rng)
        if not torch.equal(batch.label, places):
            moved = batch.label.flatten(1)[:, None].expand(-1, target.shape[1], -1)
            target = target.flatten(2).gather(2, moved).reshape(target.shape)
        return batch.image, target


def soft_volume(case: StoredCase, chosen: Mapping[str, ProbabilityMap], classes: Sequence[str]) -> SoftVolume:
    """A volume with its chosen maps in the order of ``classes``."""
    return SoftVolume(case=case, maps=tuple(chosen.get(name) for name in classes))
