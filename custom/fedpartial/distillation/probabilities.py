"""What every stored model says about every public volume, on disk: one inference per model version and volume, ever.

``<folder>/<teacher key>/<volume key>*`` are the files of one model and volume (probability_files.py). A teacher's key
covers its weights, a volume's key its image and all that decides how it is looked at: a model or an image that changes
is a new one, and whatever else changes (rule, steps, other models, the process) makes nothing anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from filelock import FileLock
from torch import Tensor, nn

from fedpartial.data.stored_case import META, StoredCase
from fedpartial.distillation.probability_files import ProbabilityMap, read_maps, remove_unfinished, write_maps
from fedpartial.distillation.teachers import Teacher, ordered_classes
from fedpartial.errors import ConfigError, needs_space
from fedpartial.presets import Preset
from fedpartial.training.evaluator import predict_logits
from fedpartial.training.precision import Precision

log = logging.getLogger(__name__)

PROBABILITIES = "probabilities"
"""The cache's folder in a model store."""


class ProbabilityCache:
    """The cache in one folder, for volumes that are looked at as ``preset`` says."""

    def __init__(self, folder: Path, preset: Preset):
        self.folder, self.preset = folder, preset

    def maps(self, teacher: Teacher, volume: StoredCase) -> dict[str, ProbabilityMap] | None:
        """A teacher's map of each of its classes; None where the volume is not done or a file is damaged."""
        return read_maps(self._index(teacher, volume), self._classes(teacher))

    def fill(
        self,
        teacher: Teacher,
        volumes: Sequence[StoredCase],
        precision: Precision,
        *,
        check: Callable[[], None] = lambda: None,
        on_volume: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Make what is missing of a teacher's maps; how many volumes that were. Warns of damaged ones.

        The model is loaded only where one is missing. Every volume is kept as soon as it is done: a process that is
        killed continues. ``check`` is called before every window and may raise to end it, ``on_volume(done, in all)``
        after every volume. Raises ConfigError for a model whose outputs are not its classes' or not finite.
        """
        if not self._missing(teacher, volumes):
            return 0
        with needs_space("the cached probabilities", self.folder), self._locked(teacher):
            missing = self._missing(teacher, volumes)  # another process may have made them meanwhile
            network = teacher.load().to(precision.device) if missing else None
            for done, volume in enumerate(missing, start=1):
                self._warn_of_damage(self._index(teacher, volume))
                probabilities = infer(teacher, network, volume, self.preset, precision, check)
                write_maps(self._index(teacher, volume), self._classes(teacher), probabilities)
                on_volume(done, len(missing))
        return len(missing)

    def _missing(self, teacher: Teacher, volumes: Sequence[StoredCase]) -> list[StoredCase]:
        return [volume for volume in volumes if self.maps(teacher, volume) is None]

    def _locked(self, teacher: Teacher) -> AbstractContextManager:
        """The right to write a teacher's maps."""
        folder = self.folder / teacher.key
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock").acquire()
        remove_unfinished(folder)
        return lock

    def _warn_of_damage(self, index: Path) -> None:
        if index.exists():
            log.warning("cached probabilities %s/%s are damaged: they are made again", index.parent.name, index.stem)

    def _index(self, teacher: Teacher, volume: StoredCase) -> Path:
        return self.folder / teacher.key / f"{volume_key(volume, self.preset)}.json"

    def _classes(self, teacher: Teacher) -> tuple[str, ...]:
        return ordered_classes(teacher, self.preset.label_space)


def infer(
    teacher: Teacher,
    network: nn.Module,
    volume: StoredCase,
    preset: Preset,
    precision: Precision,
    check: Callable[[], None],
) -> np.ndarray:
    """Probabilities float32 (K H W D) of a teacher's classes: sigmoid of the blended logits of a sliding window."""

    def class_logits(image: Tensor) -> Tensor:
        check()
        return network.class_logits(image)

    logits = predict_logits(network, volume.image, preset, precision, predictor=class_logits)
    if len(logits) != len(teacher.classes):
        expected = f"one for each of {', '.join(teacher.classes)}"
        raise _model_error(teacher, "outputs", len(logits), expected)
    probabilities = logits.sigmoid().numpy()
    if not np.isfinite(probabilities).all():
        raise _model_error(teacher, "probabilities", "values that are not finite", "numbers from 0 to 1")
    return probabilities


def volume_key(volume: StoredCase, preset: Preset) -> str:
    """Of a volume's image as it is now, and of the grid, intensities and window with which models look at it."""
    fingerprints = json.loads((volume.folder / META).read_text(encoding="utf-8"))["fingerprints"]
    intensities = (preset.window_hu, preset.normalise_subtract, preset.normalise_divide)
    decides = (fingerprints, preset.spacing_mm, intensities, preset.patch, preset.overlap)
    digest = hashlib.blake2b(json.dumps(decides).encode(), digest_size=6).hexdigest()
    return f"{volume.folder.name}-{digest}"


def _model_error(teacher: Teacher, field: str, got: object, expected: str) -> ConfigError:
    remedy = f"Roll the model of {teacher.name} back or remove it: fedpartial store --help."
    return ConfigError(where=f"stored model {teacher.key}", field=field, got=got, expected=expected, remedy=remedy)
