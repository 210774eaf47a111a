"""The universal network that learns from probability maps: soft BCE + soft Dice (METHODS 4.3, Eq 2-4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.distillation.distillation_state import DistillationState
from fedpartial.distillation.soft_patches import SoftBatch, SoftSampler
from fedpartial.losses.soft import soft_bce, soft_dice
from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.networks.universal import EMBEDDINGS, build_universal
from fedpartial.presets import Preset
from fedpartial.training.local_trainer import TrainingDiverged, TrainingStopped
from fedpartial.training.optimizer import build_optimizer
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import Schedule

CHECKPOINT_STEPS = 50
Progress = Callable[[str, int, int, float | None], None]
"""Called with ("maps of <teacher>" or "distillation", done, in all, the loss of a step)."""


class Student:
    """The network, its optimiser and its loss."""

    def __init__(
        self,
        preset: Preset,
        classes: Sequence[str],
        *,
        seed: int,
        steps: int,
        precision: Precision,
        start: Mapping[str, Tensor] | None,
        embeddings: Mapping[str, np.ndarray] | None,
    ):
        """The arguments are those of Distiller and its run. Raises StateMismatch for a start of another network."""
        self.preset, self.precision, self.steps = preset, precision, steps
        network = build_universal(preset, seed=seed, classes=classes, embeddings=embeddings)
        if start is not None:
            load_canonical(network, _warm(start, canonical_state(network)))
        self.network = network.to(self.precision.device, memory_format=torch.channels_last_3d).train()
        self.optimizer = build_optimizer(dict(self.network.named_parameters()), self.preset.optimizer)
        self.scaler = torch.amp.GradScaler(self.precision.device.type, enabled=self.precision.needs_scaler)
        self.schedule = Schedule(num_rounds=1, local_steps=steps)

    def restore(self, state: DistillationState) -> tuple[list[float], float]:
        """Losses of the steps that a killed process has taken, and its seconds; none where there was none."""
        return state.load(self.network, self.optimizer, self.scaler) or ([], 0.0)

    def train(
        self,
        sampler: SoftSampler,
        state: DistillationState,
        losses: list[float],
        *,
        began: float,
        stop: Callable[[], bool],
        on_progress: Progress,
    ) -> None:
        """The steps that are left; each adds its loss to ``losses``. began: on the monotonic clock."""

        def keep() -> None:
            state.save(self.network, self.optimizer, self.scaler, losses, time.monotonic() - began)

        for step in range(len(losses), self.steps):
            if stop():
                keep()
                raise TrainingStopped(f"stopped before step {step + 1} of {self.steps} of the distillation")
            losses.append(self._step(sampler.batch(step), step))
            on_progress("distillation", step + 1, self.steps, losses[-1])
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == self.steps:
                self.finite_weights()
                keep()

    def _step(self, batch: SoftBatch, step: int) -> float:
        """One step of soft BCE + soft Dice (Eq 2-4); its loss."""
        device = self.precision.device
        image = batch.image.to(device, memory_format=torch.channels_last_3d)
        target, has = batch.target.to(device), batch.has.to(device)
        self.optimizer.lr = self.schedule.learning_rate(self.preset.optimizer, step)
        with self.precision.autocast():
            logits = self.network(image)
        logits = logits.float()
        loss = soft_bce(logits, target, has) + soft_dice(logits, target, has)
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"loss is {loss.item()} at step {step} of the distillation")
        self._descend(loss)
        return float(loss.detach())

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.preset.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.preset.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def finite_weights(self) -> dict[str, Tensor]:
        """The student as it stands; TrainingDiverged when a value of it is not finite."""
        weights = canonical_state(self.network)
        if bad := [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]:
            raise TrainingDiverged(f"{len(bad)} tensor(s) are not finite after distillation, first {bad[0]!r}")
        return weights


def _warm(start: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The start with vectors of classes that it has not, and without those of classes that nobody teaches."""
    kept = {name: tensor for name, tensor in start.items() if name in fresh or not name.startswith(EMBEDDINGS)}
    return {name: tensor for name, tensor in fresh.items() if name.startswith(EMBEDDINGS)} | kept
