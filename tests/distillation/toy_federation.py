"""Public volumes with one bright ball and one dim one, models that know them by their intensity, and a tiny preset."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.data.stored_case import META, StoredCase, write_case
from fedpartial.distillation.distiller import Distiller
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.probabilities import ProbabilityCache
from fedpartial.distillation.teachers import Teacher
from fedpartial.presets import UniversalConfig, get_preset

TOY = replace(
    get_preset("phantom_mmds"),
    name="toy",
    patch=(16, 16, 16),
    augmentation="none",
    volumes_per_batch=2,
    patches_per_volume=1,
    network=UniversalConfig(extractor="unet", channels=(4, 8), embedding=8, global_features=8),
)
SHAPE = (20, 18, 16)
LEVELS = {"liver": 2.0, "spleen": 1.0}
"""Intensity of each ball; around them noise about 0."""


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Bool (H W D)."""
    places = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (places**2).sum(axis=0) <= radius**2


def toy_volume(folder: Path, seed: int) -> StoredCase:
    """A prepared volume whose fingerprint is its seed: liver left, spleen right."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.1, SHAPE)
    image[ball(SHAPE, (6 + seed % 2, 8, 8), 4.5)] += LEVELS["liver"]
    image[ball(SHAPE, (15, 9, 7 + seed % 2), 3.5)] += LEVELS["spleen"]
    folder.mkdir(parents=True)
    write_case(folder, image.astype(np.float32), None, {"fingerprints": [[1, 1, str(seed)]]})
    return StoredCase(
        folder=folder,
        index=seed,
        split="testing",
        labelled=np.ones(TOY.label_space.num_channels, dtype=bool),
        affine=np.eye(4),
        original_shape=SHAPE,
        original_affine=np.eye(4),
        image_path=folder,
        label_path=None,
        foreground_rows={},
    )


def toy_volumes(root: Path, count: int = 2) -> list[StoredCase]:
    return [toy_volume(root / f"volume{seed}", seed) for seed in range(count)]


def change_image(volume: StoredCase) -> None:
    """What preparing a changed file leaves: another image under another fingerprint."""
    meta = json.loads((volume.folder / META).read_text())
    np.save(volume.folder / "image.npy", np.load(volume.folder / "image.npy")[::-1])
    (volume.folder / META).write_text(json.dumps({**meta, "fingerprints": [[1, 2, "changed"]]}))


class ByIntensity(nn.Module):
    """Sees a class where the image is near its level; ``sureness`` is the logit at its middle."""

    def __init__(self, classes: tuple[str, ...], sureness: float, counts: dict[str, int], name: str):
        super().__init__()
        self.classes, self.sureness, self.counts, self.name = classes, sureness, counts, name

    def class_logits(self, image: Tensor) -> Tensor:
        self.counts[self.name] = self.counts.get(self.name, 0) + 1
        return torch.cat([self.sureness * (1 - 4 * (image - LEVELS[name]).abs()) for name in self.classes], dim=1)


class SeesNothing(ByIntensity):
    """Surely background, everywhere."""

    def class_logits(self, image: Tensor) -> Tensor:
        self.counts[self.name] = self.counts.get(self.name, 0) + 1
        return torch.full_like(image, -12.0).repeat(1, len(self.classes), 1, 1, 1)


@dataclass(kw_only=True)
class Models:
    """Teachers that note their own loads and passes."""

    loads: list[str] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)

    def teacher(
        self, name: str, *classes: str, sureness: float = 6.0, version: int = 1, kind: type = ByIntensity
    ) -> Teacher:
        def load() -> nn.Module:
            self.loads.append(name)
            return kind(classes, sureness, self.passes, name)

        key = f"{name}-v{version}-{sureness}{kind.__name__}"
        return Teacher(name=name, key=key, classes=classes, load=load)


def stored(name: str, network: nn.Module, classes: tuple[str, ...]) -> Teacher:
    """A teacher whose network is given."""
    return Teacher(name=name, key=f"{name}-v1", classes=classes, load=lambda: network)


def toy_distiller(volumes: list[StoredCase], folder: Path, **changes) -> Distiller:
    preset = changes.pop("preset", TOY)
    given = {"rule": SelectionRule(), "seed": 3, "device": "cpu", **changes}
    return Distiller(preset=preset, volumes=volumes, cache=ProbabilityCache(folder, preset), **given)


def stopping_after(calls: int) -> Callable[[], bool]:
    """False as often as said, then True."""
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop
