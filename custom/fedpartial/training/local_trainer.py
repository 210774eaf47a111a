"""The local steps of one round at one site: plain torch, no FLARE.

``run_round`` is a function of (weights, round number, state on disk): the batch, the learning rate and
the augmentation of a step follow from its global step number, and the optimiser's momentum is read from
disk. A site may therefore live in one process or in a new one for every round; the result is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fedpartial.data.loader import BatchStream
from fedpartial.data.sampler import Batch, PatchSampler
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import ConfigError
from fedpartial.methods.base import Method, RoundContext
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.networks.canonical import StateMismatch, canonical_state, canonical_tensors, load_canonical
from fedpartial.networks.split import Exchange, is_shared
from fedpartial.presets import Preset
from fedpartial.training.checkpoint import SiteState, load_state_before, save_state
from fedpartial.training.optimizer import Optimizer, build_optimizer
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import PlateauState, Schedule

StartFrom = Literal["global", "local"]
WEIGHTS = "network/"
"""Prefix of the tensors in a site's state that it keeps for itself: its private part, or all of its network."""
FRESH = -1
"""The optimizer_round of a site that starts without an earlier round's state."""


class TrainingStopped(RuntimeError):
    """The server or the user asked to stop; nothing of this round may be sent."""


class TrainingDiverged(RuntimeError):
    """Loss or weights are not finite; nothing of this round may be sent."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a site sends: update = local - global weights (float32, CPU) of what is shared, steps, numbers to report."""

    update: dict[str, Tensor]
    num_steps: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What makes a round's steps go on where an earlier round's ended; ``round`` is FRESH when nothing does."""

    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    plateau: PlateauState
    round: int


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
        exchange: Exchange = "all",
        head_classes: Sequence[str] | None = None,
        on_step: Callable[[int, float], None] | None = None,
    ):
        """``exchange`` says which tensors are shared, ``head_classes`` which private heads the network has (None: a
        joint one); the rest is kept at the site. Raises ConfigError for a method of other heads."""
        _check_heads(method, head_classes)
        self.preset, self.method, self.schedule, self.precision = preset, method, schedule, precision
        self.start_from, self.exchange, self.head_classes = start_from, exchange, head_classes
        self.state_dir, self.num_workers, self.on_step = state_dir, num_workers, on_step
        self._sampler = partial(PatchSampler, preset=preset, seed=seed, site=site)
        self._cases, self._site = cases, site
        self.sampler = self._sampler(cases)
        self.network = self._build(seed)
        self._first_private = {n: t for n, t in canonical_state(self.network).items() if not is_shared(n, exchange)}
        self._teacher: nn.Module | None = None
        self._seed = seed
        pretraining = f", {schedule.pretrain_rounds} rounds of pretraining" if schedule.pretrain_rounds else ""
        length = f"{schedule.num_rounds} x {schedule.local_steps} steps{pretraining}"
        kept = ", own weights" if start_from == "local" else ""
        self._run = f"{type(method).__name__}{kept}, preset {preset.name}, seed {seed}, {length}"
        self.groups = torch.from_numpy(preset.label_space.group_matrix()).to(precision.device)
        self.head_channels = tuple(preset.label_space.index(name) for name in head_classes or ())

    def _build(self, seed: int) -> nn.Module:
        network = build_network(self.preset, seed=seed, head_classes=self.head_classes)
        return network.to(self.precision.device, memory_format=torch.channels_last_3d)

    def run_round(self, weights: Mapping[str, Tensor], round_number: int, stop: Callable[[], bool]) -> RoundResult:
        """Train ``local_steps`` steps from ``weights`` and return the update.

        With ``start_from`` "local" later rounds start from the site's own weights; the update is still the
        difference to ``weights``.

        Raises StateMismatch for weights that do not fit, ConfigError for the state of another run, TrainingStopped
        within one step of ``stop()``, TrainingDiverged when the loss or a weight is not finite.
        """
        _check_passes(self.method, self.network, self.preset)
        started = time.monotonic()
        taken = self.load(weights, round_number)
        context = self.context(round_number)
        teacher = self._load_teacher(weights) if self.method.needs_teacher(context) else None
        restored = self._restore(round_number)
        first = round_number * self.schedule.local_steps
        span = range(first, first + self.schedule.local_steps)
        rate = partial(self.schedule.learning_rate, self.preset.optimizer, factor=restored.plateau.factor)
        self.network.train()
        sums = self.run_steps(
            span, context, restored.optimizer, restored.scaler, stop, learning_rate=rate, teacher=teacher
        )
        update = self._update(weights)
        metrics = {name: value / len(span) for name, value in sums.items()}
        self.save(round_number, restored.optimizer, restored.scaler, self._plateau(restored, metrics["loss"]))
        metrics["seconds"] = time.monotonic() - started
        metrics["optimizer_round"] = restored.round
        metrics["tensors_taken"] = taken
        return RoundResult(update=update, num_steps=len(span), metrics=metrics)

    def load(self, weights: Mapping[str, Tensor], round_number: int) -> int:
        """Load what the round starts from; the number of tensors of the network that are those of the message."""
        load_canonical(self.network, self.starting_weights(weights, round_number))
        live = canonical_tensors(self.network)
        return sum(torch.equal(live[name].cpu(), torch.as_tensor(value)) for name, value in weights.items())

    def starting_weights(self, weights: Mapping[str, Tensor], round_number: int) -> Mapping[str, Tensor]:
        """What a round trains from: the global model with the site's own private part, or all of the site's own.

        What is the site's own is as the round before left it, at first as the seed made it. Raises StateMismatch when
        the server sends a tensor that does not travel.
        """
        if private := [name for name in weights if not is_shared(name, self.exchange)]:
            raise StateMismatch(f"the server sends {private[0]!r}, which is private (exchange {self.exchange!r})")
        return {**self._first_private, **weights, **self._own(round_number)}

    def _own(self, round_number: int) -> dict[str, Tensor]:
        state = self._state_before(round_number)
        tensors = {} if state is None else state.tensors
        return {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}

    def context(self, round_number: int) -> RoundContext:
        parameters = tuple(self.network.parameters())
        needed = parameters if self.method.needs_reference() else ()
        return RoundContext(
            round_number=round_number,
            num_rounds=self.schedule.num_rounds,
            groups=self.groups,
            parameters=parameters,
            reference=tuple(p.detach().clone() for p in needed),
            head_channels=self.head_channels,
        )

    def _load_teacher(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The global model of this round, frozen."""
        if self._teacher is None:
            self._teacher = self._build(self._seed).eval().requires_grad_(False)
        load_canonical(self._teacher, weights)
        return self._teacher

    def run_steps(
        self,
        span: range,
        context: RoundContext,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        stop: Callable[[], bool],
        *,
        learning_rate: Callable[[int], float],
        teacher: nn.Module | None = None,
    ) -> dict[str, float]:
        """Train the steps of ``span`` (global step numbers) in the network's present mode; sums of the loss terms.

        learning_rate: of a global step.
        """
        device, sampler = self.precision.device, self._sampler_of(context.round_number)
        stream = BatchStream(sampler, start=span.start, stop=span.stop, num_workers=self.num_workers, device=device)
        sums: dict[str, float] = {}
        for done, (step, batch) in enumerate(zip(span, stream, strict=True), start=1):
            if stop():
                raise TrainingStopped(f"stopped before step {done} of round {context.round_number}")
            optimizer.lr = learning_rate(step)
            for name, value in self._step(batch, context, teacher, optimizer, scaler, step).items():
                sums[name] = sums.get(name, 0.0) + value
            if self.on_step:
                self.on_step(done, sums["loss"] / done)
        return sums

    def _sampler_of(self, round_number: int) -> PatchSampler:
        """Pretraining sees only the cases that annotate every class."""
        if round_number >= self.schedule.pretrain_rounds:
            return self.sampler
        if full := [case for case in self._cases if case.labelled[1:].all()]:
            return self._sampler(full)
        raise ConfigError(
            where=f"site {self._site}",
            field="pretrain_sites",
            got="no training case that annotates every class",
            expected=f"cases with all of {', '.join(self.preset.label_space.classes)}",
            remedy="Name a fully annotated site in the job's pretrain_sites, or set pretrain_rounds to 0.",
        )

    def _step(self, batch: Batch, context: RoundContext, teacher, optimizer, scaler, step: int) -> dict[str, float]:
        """One batch: the loss and its parts, added up over the passes of the method."""
        device = self.precision.device
        image = batch.image.to(device, non_blocking=True, memory_format=torch.channels_last_3d)
        label = batch.label.to(device, non_blocking=True).long()
        labelled = batch.labelled.to(device, non_blocking=True)
        found: dict[str, float] = {}
        for number in range(self.method.passes()):
            with self.precision.autocast():
                # First, so that its memory is free again when the student keeps what its gradient needs.
                with torch.no_grad():
                    teacher_logits = None if teacher is None else teacher(image)
                outputs = self._outputs(image, labelled, number)
            terms = self.method.loss(outputs, teacher_logits, label, labelled, replace(context, pass_number=number))
            self._descend(terms.total, optimizer, scaler, f"step {step} of round {context.round_number}")
            for name, value in {"loss": terms.total, **terms.parts}.items():
                found[name] = found.get(name, 0.0) + float(value.detach())
        return found

    def _outputs(self, image: Tensor, labelled: Tensor, pass_number: int) -> tuple[Tensor, ...]:
        if self.method.passes() > 1:
            return self.network.train_pass(image, labelled, pass_number)
        return training_outputs(self.network(image))

    def _descend(self, loss: Tensor, optimizer: Optimizer, scaler: torch.amp.GradScaler, place: str) -> None:
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"loss is {loss.item()} at {place}")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if self.preset.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.preset.optimizer.clip_norm)
        scaler.step(optimizer)
        scaler.update()

    def _update(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        local = self.finite_weights()
        return {name: local[name] - torch.as_tensor(weights[name]) for name in local if name in weights}

    def finite_weights(self) -> dict[str, Tensor]:
        """The local model; TrainingDiverged when a value of it is not finite."""
        local = self.local_weights()
        if bad := [name for name, tensor in local.items() if not torch.isfinite(tensor).all()]:
            raise TrainingDiverged(f"{len(bad)} tensor(s) are not finite after training, first {bad[0]!r}")
        return local

    def _restore(self, round_number: int) -> Restored:
        """The optimiser as an earlier round left it; a new one at the start of a phase."""
        optimizer = build_optimizer(dict(self.network.named_parameters()), self.preset.optimizer)
        scaler, state = self.fresh_scaler(), self._state_before(round_number)
        if state is None or self.schedule.starts_anew(round_number, state.values["round"]):
            return Restored(optimizer=optimizer, scaler=scaler, plateau=PlateauState(), round=FRESH)
        optimizer.load({n: t for n, t in state.tensors.items() if not n.startswith(WEIGHTS)})
        if self.precision.needs_scaler and state.values["scaler"]:
            scaler.load_state_dict(state.values["scaler"])
        plateau = PlateauState.from_dict(state.values.get("plateau"))
        return Restored(optimizer=optimizer, scaler=scaler, plateau=plateau, round=state.values["round"])

    def _plateau(self, restored: Restored, loss: float) -> PlateauState:
        """What the learning rate remembers after a round with this mean loss."""
        config = self.preset.optimizer.plateau
        return self.schedule.after_round(restored.plateau, loss, config) if config else restored.plateau

    def fresh_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.precision.device.type, enabled=self.precision.needs_scaler)

    def _state_before(self, round_number: int) -> SiteState | None:
        """What an earlier round of this run left; ConfigError for the state of another run."""
        state = load_state_before(self.state_dir, round_number)
        if state is not None and state.values["run"] != self._run:
            raise ConfigError(
                where=str(self.state_dir),
                field="state",
                got=f"the optimiser of {state.values['run']}",
                expected=f"the optimiser of {self._run}",
                remedy="Continue that run, or start this one anew.",
            )
        return state

    def save(
        self,
        round_number: int,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        plateau: PlateauState | None = None,
    ) -> None:
        """Optimiser and private part as they stand after a round."""
        values = {"round": round_number, "scaler": scaler.state_dict(), "run": self._run}
        values["plateau"] = (plateau or PlateauState()).to_dict()
        own = {f"{WEIGHTS}{name}": tensor for name, tensor in self.private_part().items()}
        save_state(self.state_dir, round_number, SiteState(tensors=optimizer.state() | own, values=values))

    def private_part(self) -> dict[str, Tensor]:
        """What the site keeps for itself, as it stands after the latest round; all of it with start_from "local"."""
        kept = self.local_weights()
        return kept if self.start_from == "local" else {n: kept[n] for n in self._first_private}

    def stored_private_part(self) -> dict[str, Tensor]:
        """The same as the run's last round or fine-tuning wrote it; empty for a site that has finished no round."""
        return self._own(self.schedule.num_rounds + 1)

    def local_weights(self) -> dict[str, Tensor]:
        """The local model as it stands after the latest round."""
        return canonical_state(self.network)


def _check_passes(method: Method, network: nn.Module, preset: Preset) -> None:
    if method.passes() == 1 or hasattr(network, "train_pass"):
        return
    raise ConfigError(
        where="job",
        field="preset",
        got=f"{preset.name} for {type(method).__name__}, which has {method.passes()} passes",
        expected="a preset whose network is MENU-Net",
        remedy="Name phantom_menu or menu, or choose another method.",
    )


def _check_heads(method: Method, head_classes: Sequence[str] | None) -> None:
    if method.needs_heads() == (head_classes is not None):
        return
    raise ConfigError(
        where="job",
        field="args.method",
        got=f"{type(method).__name__} for a network with {'a joint head' if head_classes is None else 'private heads'}",
        expected="SegViz where the trunk is exchanged, another method where everything is",
        remedy="Correct 'exchange' in config_fed_server.json or the method in config_fed_client.json.",
    )
