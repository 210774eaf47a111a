"""What every stored model says about every public volume, on disk: one inference per model version and volume, ever.

``<folder>/<teacher key>/<volume key>*`` are the files of one model and volume (probability_files.py). A teacher's key
covers its weights, a volume's key its image and all that decides how it is looked at: a model or an image that changes
is a new one, and whatever else changes (rule, steps, other models, the process) makes nothing anew.

The maps of a version stay as long as the store keeps the version, which may be rolled back to: a byte for each voxel
and class, so 120 volumes of 5 million voxels and 18 classes take 11 GB for every version.
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

Check = Callable[[], None]


class UnusableModel(ConfigError):
    """A stored model whose outputs teach nothing: they are not its classes', or not finite."""


class ProbabilityCache:
    """The cache in one folder, for volumes that are looked at as ``preset`` says.

    What one object has once found whole it does not read again.
    """

    def __init__(self, folder: Path, preset: Preset):
        self.folder, self.preset = folder, preset
        self._whole: dict[Path, dict[str, ProbabilityMap]] = {}

    def maps(
        self, teacher: Teacher, volume: StoredCase, check: Check = lambda: None
    ) -> dict[str, ProbabilityMap] | None:
        """A teacher's map of each of its classes; None where the volume is not done or a file is damaged.

        ``check`` is called between the blocks of the files that are read for that, and may raise.
        """
        index = self._index(teacher, volume)
        if index not in self._whole and (found := read_maps(index, self._classes(teacher), check)):
            self._whole[index] = found
        return self._whole.get(index)

    def fill(
        self,
        teacher: Teacher,
        volumes: Sequence[StoredCase],
        precision: Precision,
        *,
        check: Check = lambda: None,
        on_volume: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Make what is missing of a teacher's maps; how many volumes that were. Warns of damaged ones.

        The model is loaded only where one is missing. Every volume is kept as soon as it is done: a process that is
        killed continues. ``check`` is called before every window and block of a file and may raise to end it,
        ``on_volume(done, in all)`` after every volume. Raises UnusableModel.
        """
        missing = self._missing(teacher, volumes, check)
        if not missing:
            return 0
        with needs_space("the cached probabilities", self.folder), self._locked(teacher):
            missing = self._missing(teacher, missing, check)  # another process may have made them meanwhile
            network = teacher.load().to(precision.device) if missing else None
            for done, volume in enumerate(missing, start=1):
                self._warn_of_damage(self._index(teacher, volume))
                probabilities = infer(teacher, network, volume, self.preset, precision, check)
                write_maps(self._index(teacher, volume), self._classes(teacher), probabilities)
                on_volume(done, len(missing))
        return len(missing)

    def _missing(self, teacher: Teacher, volumes: Sequence[StoredCase], check: Check) -> list[StoredCase]:
        return [volume for volume in volumes if self.maps(teacher, volume, check) is None]

    def _locked(self, teacher: Teacher) -> AbstractContextManager:
        """The right to write a teacher's maps."""
        folder = self.folder / teacher.key
        for one in (self.folder, folder):  # with parents=True the mode would be of the last one only
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    check: Check,
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


def _model_error(teacher: Teacher, field: str, got: object, expected: str) -> UnusableModel:
    remedy = f"Roll the model of {teacher.name} back or remove it: fedpartial store --help."
    return UnusableModel(where=f"stored model {teacher.key}", field=field, got=got, expected=expected, remedy=remedy)
