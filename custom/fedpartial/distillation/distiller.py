"""Distillation of stored models into one universal network on the server's own images (METHODS 4.3): no FLARE.

Every teacher's probability maps, from the cache or made now; for each volume and class the teacher of lowest entropy;
then training on its soft maps. A function of (teachers, volumes, preset, rule, seed, steps, start): the order in which
the models arrived does not matter, and a server that is killed goes on where it was (distillation_state.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.stored_case import StoredCase
from fedpartial.distillation.distillation_state import DistillationState, fingerprint
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.distillation.probabilities import ProbabilityCache, UnusableModel, volume_key
from fedpartial.distillation.probability_files import ProbabilityMap
from fedpartial.distillation.selection import Choice, choose
from fedpartial.distillation.soft_patches import SoftSampler, SoftVolume, soft_volume
from fedpartial.distillation.student import Progress, Student
from fedpartial.distillation.teachers import Teacher, check_teachers, union_of_classes
from fedpartial.errors import ConfigError
from fedpartial.presets import Preset
from fedpartial.training.local_trainer import TrainingStopped
from fedpartial.training.precision import select_precision

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """The universal network's state (canonical, CPU), its classes, who taught what, and what it cost.

    losses: of every step. inferences: volumes that teachers looked at now; what was in the cache does not count.
    seconds: of this process and of those that it continues. steps_now: of this process alone. left_out: models whose
    outputs cannot teach (UnusableModel), by name, and why.
    """

    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    choices: tuple[Choice, ...]
    losses: tuple[float, ...]
    inferences: int
    seconds: float
    steps_now: int
    left_out: dict[str, str]


class Distiller:
    """Distils the models of one federation on its public volumes."""

    def __init__(
        self,
        *,
        preset: Preset,
        volumes: Sequence[StoredCase],
        cache: ProbabilityCache,
        rule: SelectionRule,
        seed: int,
        device: str = "auto",
        embeddings: Mapping[str, np.ndarray] | None = None,
    ):
        """``preset`` is that of the universal network; those of the teachers differ in the network only.

        embeddings: the classes' vectors; None for those that follow from their names.
        """
        self.preset, self.cache, self.rule, self.seed, self.embeddings = preset, cache, rule, seed, embeddings
        self.volumes = tuple(sorted(volumes, key=lambda volume: volume.folder.name))
        self.precision = select_precision(device, where="server")
        if preset.cpu_threads and self.precision.device.type == "cpu":
            torch.set_num_threads(preset.cpu_threads)

    def run(
        self,
        teachers: Sequence[Teacher],
        *,
        steps: int,
        checkpoint_dir: Path,
        start: Mapping[str, Tensor] | None = None,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Progress = lambda what, done, total, loss: None,
    ) -> Distilled:
        """Train ``steps`` steps on the teachers' maps, from the seed's first weights or from ``start``.

        start: the state of a universal network of this preset; classes that it has not start from their vectors, those
        that no teacher has are left out. One teacher whose outputs are unusable does not stop the others: it is left
        out, and named in the result. Raises ConfigError for teachers, volumes or steps that cannot be used,
        StateMismatch for a start of another network, TrainingStopped within one step or window of ``stop()``,
        TrainingDiverged when the loss or a weight is not finite.
        """
        began = time.monotonic()
        _check_steps(steps)
        teachers = check_teachers(teachers, self.preset.label_space)
        teachers, inferences, left_out = self._look(teachers, stop, on_progress)
        classes = union_of_classes(teachers, self.preset.label_space)
        volumes, choices = self._choose(teachers, classes)
        student = Student(
            self.preset,
            classes,
            seed=self.seed,
            steps=steps,
            precision=self.precision,
            start=start,
            embeddings=self.embeddings,
        )
        state = DistillationState(checkpoint_dir, self._identity(teachers, steps, start))
        losses, seconds = student.restore(state)
        taken = len(losses)
        sampler = SoftSampler(volumes, self.preset, seed=self.seed)
        student.train(sampler, state, losses, began=began - seconds, stop=stop, on_progress=on_progress)
        return Distilled(
            weights=student.finite_weights(),
            classes=classes,
            choices=tuple(choices),
            losses=tuple(losses),
            inferences=inferences,
            seconds=time.monotonic() - began + seconds,
            steps_now=len(losses) - taken,
            left_out=left_out,
        )

    def _look(
        self, teachers: Sequence[Teacher], stop: Callable[[], bool], on_progress: Progress
    ) -> tuple[list[Teacher], int, dict[str, str]]:
        """Fill the cache, one model in memory at a time; who can teach, how many volumes were looked at, who cannot."""

        def check() -> None:
            if stop():
                raise TrainingStopped("stopped while the stored models looked at the public volumes")

        usable, made, left_out = [], 0, {}
        for teacher in teachers:
            check()
            what = f"maps of {teacher.name}"
            try:
                made += self.cache.fill(
                    teacher,
                    self.volumes,
                    self.precision,
                    check=check,
                    on_volume=lambda done, total, what=what: on_progress(what, done, total, None),
                )
                usable.append(teacher)
            except UnusableModel as error:
                if len(left_out) + 1 == len(teachers):
                    raise
                log.warning("the model of %s is left out: %s", teacher.name, error)
                left_out[teacher.name] = str(error)
        return usable, made, left_out

    def _choose(self, teachers: Sequence[Teacher], classes: Sequence[str]) -> tuple[list[SoftVolume], list[Choice]]:
        """Every volume with its chosen maps, and who was chosen."""
        volumes, choices = [], []
        for case in self.volumes:
            maps = {teacher.name: self._maps(teacher, case) for teacher in teachers}
            chosen: dict[str, ProbabilityMap] = {}
            for klass in classes:
                found = {name: of_teacher[klass] for name, of_teacher in maps.items() if klass in of_teacher}
                entropies = {name: each.entropy for name, each in found.items()}
                choices.append(choose(case.folder.name, klass, entropies, self.rule))
                chosen[klass] = found[choices[-1].teacher]
            volumes.append(soft_volume(case, chosen, classes))
        return volumes, choices

    def _maps(self, teacher: Teacher, case: StoredCase) -> dict[str, ProbabilityMap]:
        """Of a volume that was looked at just before."""
        maps = self.cache.maps(teacher, case)
        if maps is None:
            raise RuntimeError(f"the cached probabilities in {self.cache.folder / teacher.key} changed while in use")
        return maps

    def _identity(self, teachers: Sequence[Teacher], steps: int, start: Mapping[str, Tensor] | None) -> str:
        """Of everything that decides the result."""
        keys = [teacher.key for teacher in teachers]
        volumes = [volume_key(volume, self.preset) for volume in self.volumes]
        device = (self.precision.device.type, self.precision.name)
        plain = [self.preset.as_dict(), keys, volumes, vars(self.rule), self.seed, steps, device]
        return fingerprint(plain, start, self.embeddings)


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        remedy = "Give the job's distil_steps, or take the preset's."
        expected = "a whole number of at least 1"
        raise ConfigError(where="distillation", field="distil_steps", got=steps, expected=expected, remedy=remedy)
