"""Patches for training, as a pure function of (seed, site, step).

A federated round may run in a new process: batch 41 is the same whether or not batches 0-40 were drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.cutting import Patch, cut_patch, cut_turned
from fedpartial.data.geometry import rotation_zoom
from fedpartial.data.patch_keep import kept_start
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import ConfigError
from fedpartial.presets import Preset

EPOCH, PATCHES, AUGMENTATION = 1, 2, 3
"""Independent random streams of one (seed, site)."""

Volume = TypeVar("Volume")

ROTATION_RADIANS, ROTATION_PROBABILITY = 0.5236, 0.2
ZOOM, ZOOM_PROBABILITY = (0.7, 1.4), 0.2
"""ConDistFL (METHODS 1.5)."""

SEGVIZ_ROTATION_RADIANS, SEGVIZ_SCALE = np.pi / 15, (0.9, 1.1)
"""SegViz (METHODS 2.5): about the z axis, and along each axis; its code turns every patch."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """image float32 (N 1 H W D), label uint8 channels (N H W D), labelled bool (N C).

    The label becomes int64 where it is used: eight times the bytes to flip, stack, pin and transfer.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return Batch(**{name: t.to(device, non_blocking=non_blocking) for name, t in vars(self).items()})

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader."""
        return Batch(**{name: t.pin_memory() for name, t in vars(self).items()})


class PatchSampler:
    """Draws batches from the training cases of one site.

    Each epoch goes through a new permutation of the cases. With probability ``foreground_fraction`` a patch
    contains a foreground voxel, near its middle, of a class drawn uniformly from those the case has: lesions
    are seen as often as organs. ``patch_keep`` may ask for the best of several (patch_keep.py). Only patches are read
    from the memory-mapped volume.
    """

    def __init__(self, cases: Sequence[StoredCase], preset: Preset, *, seed: int, site: str):
        if not cases:
            raise ConfigError(
                where=f"site {site}", field="training", got="no cases", expected="at least one", remedy="Add cases."
            )
        self.cases, self.preset = tuple(cases), preset
        self._entropy = (seed, zlib.crc32(site.encode()))

    def rng(self, stream: int, counter: int) -> np.random.Generator:
        """The generator of one stream at one step or epoch."""
        return step_rng(self._entropy, stream, counter)

    def batch(self, step: int) -> Batch:
        """The patches of a step; N = volumes_per_batch * patches_per_volume, patches of a volume together."""
        rng, patches, labelled = self.rng(PATCHES, step), [], []
        for case in self._volumes(step):
            for _ in range(self.preset.patches_per_volume):
                patches.append(self._patch(case, rng))
                labelled.append(case.labelled)
        return Batch(
            image=torch.from_numpy(np.stack([patch.image for patch in patches])[:, None]),
            label=torch.from_numpy(np.stack([patch.label for patch in patches])),
            labelled=torch.from_numpy(np.stack(labelled)),
        )

    def _volumes(self, step: int) -> list[StoredCase]:
        return volumes_of_step(self.cases, self.preset.volumes_per_batch, step, self.rng)

    def _patch(self, case: StoredCase, rng: np.random.Generator) -> Patch:
        start = kept_start(case, self.preset, lambda: self._candidate(case, rng))
        turn = _rotation_zoom(self.preset, rng)
        if turn is None:
            return cut_patch(case, start, self.preset.patch, self.preset.air)
        return cut_turned(case, start, turn, self.preset.patch, self.preset.air)

    def _candidate(self, case: StoredCase, rng: np.random.Generator) -> np.ndarray:
        """First index (3,) of a patch that might be taken."""
        return patch_start(patch_centre(case, self.preset, rng), case.image.shape, self.preset.patch, rng)


def step_rng(entropy: Sequence[int], stream: int, counter: int) -> np.random.Generator:
    """The generator of one stream (EPOCH, PATCHES, AUGMENTATION) at one step or epoch."""
    return np.random.default_rng([*entropy, counter, stream])


def volumes_of_step(
    volumes: Sequence[Volume], count: int, step: int, rng: Callable[[int, int], np.random.Generator]
) -> list[Volume]:
    """The ``count`` volumes of a step: each epoch goes through a new permutation. rng: of (stream, epoch)."""
    chosen = []
    for position in range(step * count, (step + 1) * count):
        epoch, place = divmod(position, len(volumes))
        chosen.append(volumes[rng(EPOCH, epoch).permutation(len(volumes))[place]])
    return chosen


class HasForeground(Protocol):
    """What a patch is drawn around: a case's annotated channels, or the predicted foreground of a volume's maps."""

    @property
    def present(self) -> Sequence[int]:
        """What it has voxels of."""

    def foreground(self, channel: int) -> np.ndarray:
        """Voxel indices (n, 3)."""


def patch_centre(case: HasForeground, preset: Preset, rng: np.random.Generator) -> np.ndarray | None:
    """Index (3,) of the patch's centre: around a foreground voxel, or None for anywhere."""
    if rng.random() >= preset.foreground_fraction or not case.present:
        return None
    voxels = case.foreground(int(rng.choice(case.present)))
    voxel = voxels[rng.integers(len(voxels))].astype(int)
    return voxel + [int(rng.integers(-(size // 4), size // 4 + 1)) for size in preset.patch]


def patch_start(
    centre: np.ndarray | None, shape: Sequence[int], patch: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """First index (3,) of the patch. It leaves the volume only along axes on which the volume is smaller."""
    start = np.empty(3, dtype=int)
    for axis, (size, length) in enumerate(zip(shape, patch, strict=True)):
        low, high = min(0, size - length), max(0, size - length)
        if centre is None or size <= length:
            start[axis] = rng.integers(low, high + 1)
        else:
            start[axis] = np.clip(centre[axis] - length // 2, low, high)
    return start


def _rotation_zoom(preset: Preset, rng: np.random.Generator) -> np.ndarray | None:
    """3x3 of the augmentation's rotation and zoom, offsets in the patch -> offsets in the volume; None for neither."""
    turn = TURNS.get(preset.augmentation)
    return turn(preset, rng) if turn else None


def _condistfl_turn(preset: Preset, rng: np.random.Generator) -> np.ndarray | None:
    """Rotation (p 0.2) and zoom (p 0.2)."""
    rotate, zoom = rng.random() < ROTATION_PROBABILITY, rng.random() < ZOOM_PROBABILITY
    angles = rng.uniform(-ROTATION_RADIANS, ROTATION_RADIANS, 3) if rotate else np.zeros(3)
    factor = rng.uniform(*ZOOM) if zoom else 1.0
    return rotation_zoom(angles, factor, preset.spacing_mm) if rotate or zoom else None


def _segviz_turn(preset: Preset, rng: np.random.Generator) -> np.ndarray:
    """Always: a rotation about z, and a scale of its own along each axis of the patch."""
    angle = rng.uniform(-SEGVIZ_ROTATION_RADIANS, SEGVIZ_ROTATION_RADIANS)
    return rotation_zoom((0.0, 0.0, angle), 1.0, preset.spacing_mm) * rng.uniform(*SEGVIZ_SCALE, 3)


TURNS = {"condistfl": _condistfl_turn, "segviz": _segviz_turn}
"""By the preset's augmentation; the others turn nothing."""
