"""The local steps of one round at one site: plain torch, no FLARE.

``run_round`` is a function of (weights, round number, state on disk): the batch, the learning rate and
the augmentation of a step follow from its global step number, and the optimiser's momentum is read from
disk. A site may therefore live in one process or in a new one for every round; the result is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fedpartial.data.loader import BatchStream
from fedpartial.data.sampler import Batch, PatchSampler
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import ConfigError
from fedpartial.methods.base import LossTerms, Method, RoundContext
from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.presets import OptimizerConfig, Preset
from fedpartial.training.checkpoint import SiteState, load_state_before, save_state
from fedpartial.training.optimizer import NesterovSGD
from fedpartial.training.precision import Precision

StartFrom = Literal["global", "local"]
WEIGHTS = "network/"
"""Prefix of the network's own tensors in the state of a site that starts from them."""
FRESH = -1
"""The optimizer_round of a site that starts without an earlier round's state."""


class TrainingStopped(RuntimeError):
    """The server or the user asked to stop; nothing of this round may be sent."""


class TrainingDiverged(RuntimeError):
    """Loss or weights are not finite; nothing of this round may be sent."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a site sends: update = local - global weights (float32, CPU), steps taken, numbers to report."""

    update: dict[str, Tensor]
    num_steps: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds and local steps as the server gives them; lengths are derived."""

    num_rounds: int
    local_steps: int

    @property
    def total_steps(self) -> int:
        return self.num_rounds * self.local_steps

    def pooled(self, sites: int) -> Schedule:
        """For the data of several sites in one place: as many steps as these sites take together."""
        return replace(self, local_steps=self.local_steps * sites)

    def learning_rate(self, optimizer: OptimizerConfig, step: int) -> float:
        """Cosine from lr to min_lr over all local steps of the run (METHODS 1.4)."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, self.total_steps) / self.total_steps))
        return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * cosine


class LocalTrainer:
    """Trains one site's copy of the network, one round at a time."""

    def __init__(
        self,
        *,
        preset: Preset,
        method: Method,
        cases: Sequence[StoredCase],
        site: str,
        seed: int,
        schedule: Schedule,
        precision: Precision,
        state_dir: Path,
        num_workers: int = 0,
        start_from: StartFrom = "global",
        on_step: Callable[[int, float], None] | None = None,
    ):
        self.preset, self.method, self.schedule, self.precision = preset, method, schedule, precision
        self.start_from = start_from
        self.state_dir, self.num_workers, self.on_step = state_dir, num_workers, on_step
        self.sampler = PatchSampler(cases, preset, seed=seed, site=site)
        self.network = self._build(seed)
        self._teacher: nn.Module | None = None
        self._seed = seed
        length = f"{schedule.num_rounds} x {schedule.local_steps} steps"
        kept = ", own weights" if start_from == "local" else ""
        self._run = f"{type(method).__name__}{kept}, preset {preset.name}, seed {seed}, {length}"
        self.groups = torch.from_numpy(preset.label_space.group_matrix()).to(precision.device)

    def _build(self, seed: int) -> nn.Module:
        return build_network(self.preset, seed=seed).to(self.precision.device, memory_format=torch.channels_last_3d)

    def run_round(self, weights: Mapping[str, Tensor], round_number: int, stop: Callable[[], bool]) -> RoundResult:
        """Train ``local_steps`` steps from ``weights`` and return the update.

        With ``start_from`` "local" later rounds start from the site's own weights; the update is still the
        difference to ``weights``.

        Raises StateMismatch for weights that do not fit, ConfigError for the state of another run, TrainingStopped
        within one step of ``stop()``, TrainingDiverged when the loss or a weight is not finite.
        """
        started = time.monotonic()
        load_canonical(self.network, self.starting_weights(weights, round_number))
        context = self._context(round_number)
        teacher = self._load_teacher(weights) if self.method.needs_teacher(context) else None
        optimizer, scaler, optimizer_round = self._restore_optimizer(round_number)
        sums = self._steps(context, teacher, optimizer, scaler, stop)
        update = self._update(weights)
        self._save(round_number, optimizer, scaler)
        metrics = {name: value / self.schedule.local_steps for name, value in sums.items()}
        metrics["seconds"] = time.monotonic() - started
        metrics["optimizer_round"] = optimizer_round
        return RoundResult(update=update, num_steps=self.schedule.local_steps, metrics=metrics)

    def starting_weights(self, weights: Mapping[str, Tensor], round_number: int) -> Mapping[str, Tensor]:
        """What a round trains from: the global model, or the site's own as the round before left it."""
        state = load_state_before(self.state_dir, round_number) if self.start_from == "local" else None
        if state is None:
            return weights
        own = {n.removeprefix(WEIGHTS): t for n, t in state.tensors.items() if n.startswith(WEIGHTS)}
        return own or weights

    def _context(self, round_number: int) -> RoundContext:
        parameters = tuple(self.network.parameters())
        needed = parameters if self.method.needs_reference() else ()
        return RoundContext(
            round_number=round_number,
            num_rounds=self.schedule.num_rounds,
            groups=self.groups,
            parameters=parameters,
            reference=tuple(p.detach().clone() for p in needed),
        )

    def _load_teacher(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The global model of this round, frozen."""
        if self._teacher is None:
            self._teacher = self._build(self._seed).eval().requires_grad_(False)
        load_canonical(self._teacher, weights)
        return self._teacher

    def _steps(self, context, teacher, optimizer, scaler, stop) -> dict[str, float]:
        self.network.train()
        first = context.round_number * self.schedule.local_steps
        stream = BatchStream(
            self.sampler,
            start=first,
            stop=first + self.schedule.local_steps,
            num_workers=self.num_workers,
            device=self.precision.device,
        )
        sums: dict[str, float] = {}
        for step, batch in enumerate(stream, start=first):
            if stop():
                raise TrainingStopped(f"stopped before step {step - first + 1} of round {context.round_number}")
            optimizer.lr = self.schedule.learning_rate(self.preset.optimizer, step)
            terms = self._step(batch, context, teacher, optimizer, scaler, step)
            for name, value in {"loss": terms.total, **terms.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if self.on_step:
                self.on_step(step - first + 1, sums["loss"] / (step - first + 1))
        return sums

    def _step(self, batch: Batch, context: RoundContext, teacher, optimizer, scaler, step: int) -> LossTerms:
        device = self.precision.device
        image = batch.image.to(device, non_blocking=True, memory_format=torch.channels_last_3d)
        label = batch.label.to(device, non_blocking=True)
        labelled = batch.labelled.to(device, non_blocking=True)
        with self.precision.autocast():
            outputs = training_outputs(self.network(image), self.preset.network)
            with torch.no_grad():
                teacher_logits = None if teacher is None else teacher(image)
        terms = self.method.loss(outputs, teacher_logits, label, labelled, context)
        if not torch.isfinite(terms.total):
            raise TrainingDiverged(f"loss is {terms.total.item()} at step {step} of round {context.round_number}")
        optimizer.zero_grad()
        scaler.scale(terms.total).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.preset.optimizer.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        return terms

    def _update(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        local = canonical_state(self.network)
        if bad := [name for name, tensor in local.items() if not torch.isfinite(tensor).all()]:
            raise TrainingDiverged(f"{len(bad)} tensor(s) are not finite after training, first {bad[0]!r}")
        return {name: tensor - torch.as_tensor(weights[name]) for name, tensor in local.items()}

    def _restore_optimizer(self, round_number: int) -> tuple[NesterovSGD, torch.amp.GradScaler, int]:
        """The optimiser as an earlier round left it, and the number of that round; FRESH for a new one."""
        optimizer = NesterovSGD(dict(self.network.named_parameters()), self.preset.optimizer)
        scaler = torch.amp.GradScaler(self.precision.device.type, enabled=self.precision.needs_scaler)
        state = load_state_before(self.state_dir, round_number)
        if state is None:
            return optimizer, scaler, FRESH
        if state.values["run"] != self._run:
            raise ConfigError(
                where=str(self.state_dir),
                field="state",
                got=f"the optimiser of {state.values['run']}",
                expected=f"the optimiser of {self._run}",
                remedy="Continue that run, or start this one anew.",
            )
        optimizer.load({n: t for n, t in state.tensors.items() if not n.startswith(WEIGHTS)})
        if self.precision.needs_scaler and state.values["scaler"]:
            scaler.load_state_dict(state.values["scaler"])
        return optimizer, scaler, state.values["round"]

    def _save(self, round_number: int, optimizer: NesterovSGD, scaler: torch.amp.GradScaler) -> None:
        values = {"round": round_number, "scaler": scaler.state_dict(), "run": self._run}
        tensors = optimizer.state()
        if self.start_from == "local":
            tensors |= {f"{WEIGHTS}{name}": tensor for name, tensor in self.local_weights().items()}
        save_state(self.state_dir, round_number, SiteState(tensors=tensors, values=values))

    def local_weights(self) -> dict[str, Tensor]:
        """The local model as it stands after the latest round."""
        return canonical_state(self.network)
