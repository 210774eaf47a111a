"""What benchmarks/growth.py grows: a size, a label space of so many classes, presets on it, volumes and batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpartial import presets
from fedpartial.data.stored_case import StoredCase, write_case
from fedpartial.labels import LabelSpace, Organ
from fedpartial.presets import Preset

BLOCK = 4
"""Voxels along an edge of the blocks of one label in a made-up volume."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One point of a series: foreground classes, sites (teachers, updates), methods compared, and how many times the
    smallest volume (patch, number of parameters)."""

    classes: int = 8
    sites: int = 4
    methods: int = 4
    voxels: int = 1


def space_of(classes: int) -> LabelSpace:
    """Half of the classes are organs, each with a lesion: groups of two, as many groups as classes / 2."""
    organs = [Organ(name=f"organ_{i}", lesions=(f"lesion_{i}",)) for i in range(classes // 2)]
    return LabelSpace(organs=(*organs, *([Organ(name="organ_last")] if classes % 2 else [])))


def annotated(space: LabelSpace) -> tuple[str, ...]:
    """The first half of the classes: annotated and unannotated ones grow alike."""
    return space.classes[: max(1, len(space.classes) // 2)]


def preset_on(base: Preset, size: Size) -> Preset:
    """A preset with this label space, and a patch that is so many times longer along the first axes; known by name."""
    name = f"growth_{base.name}"
    preset = replace(base, name=name, label_space=space_of(size.classes), patch=scaled(base.patch, size.voxels))
    presets.PRESETS[name] = preset
    return preset


def scaled(shape: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    """A shape of so many times the voxels: a power of two, spread over the axes."""
    doublings = int(math.log2(factor))
    return tuple(side << (doublings + 2 - axis) // 3 for axis, side in enumerate(shape))


def label_volume(shape: tuple[int, ...], classes: int) -> np.ndarray:
    """uint8 channels of blocks of random labels, background as often as one class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes + 1, [math.ceil(side / BLOCK) for side in shape]).astype(np.uint8)
    for axis in range(len(shape)):
        labels = labels.repeat(BLOCK, axis)
    return np.ascontiguousarray(labels[tuple(slice(side) for side in shape)])


def stored_case(folder: Path, shape: tuple[int, int, int], space: LabelSpace, index: int = 0) -> StoredCase:
    """A prepared case of noise that annotates the first half of the classes."""
    folder.mkdir(parents=True)
    mask = space.labelled_mask(annotated(space))
    label = label_volume(shape, len(space.classes))
    image = np.random.default_rng(index).standard_normal(shape, dtype=np.float32)
    write_case(folder, image, np.where(mask[label], label, 0).astype(np.uint8), {"fingerprints": {"image": "made up"}})
    rows = _rows(folder)
    return StoredCase(
        folder=folder,
        index=index,
        split="training",
        labelled=mask,
        affine=np.eye(4),
        original_shape=shape,
        original_affine=np.eye(4),
        image_path=folder / "image.npy",
        label_path=folder / "label.npy",
        foreground_rows=rows,
    )


def _rows(folder: Path) -> dict[int, tuple[int, int]]:
    import json

    found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["foreground_rows"]
    return {int(channel): tuple(span) for channel, span in found.items()}


def training_batch(preset: Preset) -> tuple[Tensor, Tensor]:
    """Labels (N, H, W, D) of the annotated classes and the mask bool (N, C) of a batch."""
    space, count = preset.label_space, preset.volumes_per_batch * preset.patches_per_volume
    mask = space.labelled_mask(annotated(space))
    label = label_volume(preset.patch, len(space.classes))
    labels = torch.from_numpy(np.where(mask[label], label, 0)).long()
    return labels.repeat(count, 1, 1, 1), torch.from_numpy(mask).repeat(count, 1)
