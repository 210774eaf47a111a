"""Workloads of benchmarks/growth.py at a site: losses, training steps, patches, scores of a case.

A workload is a function of (size, folder) that makes its inputs and returns the function to measure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from growth_space import Size, annotated, label_volume, preset_on, scaled, space_of, stored_case, training_batch
from torch import Tensor

from fedpartial.data.sampler import PatchSampler
from fedpartial.evaluation.metrics import score_case
from fedpartial.losses.combination import LossOptions, exclusion_losses
from fedpartial.losses.conditional_distillation import conditional_distillation
from fedpartial.methods.base import Method, RoundContext
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.methods.margexc import MargExc
from fedpartial.methods.mmds import Mmds
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import PHANTOM, get_preset
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.optimizer import build_optimizer
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import Schedule

Work = Callable[[], object]
CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
VOLUME = (48, 48, 48)
"""Of a prepared case at voxels 1."""
SCORED = (128, 96, 64)
"""Of a label map to score at voxels 1."""


def loss_of(method: Method, outputs_per_class: int = 0) -> Callable[[Size, Path], Work]:
    """Value and gradient of a method's loss of logits that exist already.

    outputs_per_class: 0 for a joint head of all channels, else of each annotated class.
    """

    def prepare(size: Size, folder: Path) -> Work:
        preset = preset_on(PHANTOM, size)
        labels, labelled = training_batch(preset)
        heads = tuple(preset.label_space.index(name) for name in annotated(preset.label_space))
        shape = {0: (labelled.shape[1],), 1: (len(heads),), 2: (len(heads), 2)}[outputs_per_class]
        logits = torch.randn(len(labels), *shape, *preset.patch, generator=torch.Generator().manual_seed(0))
        groups = torch.from_numpy(preset.label_space.group_matrix())
        context = RoundContext(round_number=0, num_rounds=2, groups=groups, head_channels=heads)
        return lambda: _descend(logits, lambda z: method.loss((z,), None, labels, labelled, context).total)

    return prepare


def _descend(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    loss(logits.detach().requires_grad_()).backward()


def distillation_loss(size: Size, folder: Path) -> Work:
    """Conditional distillation alone, teacher's logits given."""
    preset = preset_on(PHANTOM, size)
    labels, labelled = training_batch(preset)
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(*labelled.shape, *preset.patch, generator=generator) for _ in range(2))
    groups = torch.from_numpy(preset.label_space.group_matrix())
    return lambda: _descend(logits, lambda z: conditional_distillation(z, teacher, labels, labelled, groups))


def exclusion_loss(size: Size, folder: Path) -> Work:
    """Exclusion Dice and cross entropy."""
    preset = preset_on(PHANTOM, size)
    labels, labelled = training_batch(preset)
    logits = torch.randn(*labelled.shape, *preset.patch, generator=torch.Generator().manual_seed(0))
    groups = torch.from_numpy(preset.label_space.group_matrix())

    def loss(z: Tensor) -> Tensor:
        return sum(exclusion_losses(z, labels, labelled, groups, ("dice", "ce"), LossOptions()).values())

    return lambda: _descend(logits, loss)


def step_of(method: Method) -> Callable[[Size, Path], Work]:
    """One step as a site runs it, float32: patches, augmentation, networks, loss, optimiser."""

    def prepare(size: Size, folder: Path) -> Work:
        preset = preset_on(PHANTOM, size)
        shape = scaled(VOLUME, size.voxels)
        cases = [stored_case(folder / f"case{i}", shape, preset.label_space, i) for i in range(2)]
        trainer = LocalTrainer(
            preset=preset,
            method=method,
            cases=cases,
            site="growth",
            seed=0,
            schedule=Schedule(num_rounds=2, local_steps=1),
            precision=CPU,
            state_dir=folder / "state",
        )
        optimizer = build_optimizer(dict(trainer.network.named_parameters()), preset.optimizer)
        scaler, context = trainer.fresh_scaler(), trainer.context(1)
        taught = method.needs_teacher(context)
        teacher = trainer._load_teacher(canonical_state(trainer.network)) if taught else None
        trainer.network.train()
        return lambda: trainer.run_steps(
            range(1), context, optimizer, scaler, lambda: False, learning_rate=lambda step: 1e-3, teacher=teacher
        )

    return prepare


def patches(size: Size, folder: Path) -> Work:
    """A batch of patches of the smallest size, from a volume that grows."""
    preset = preset_on(get_preset("phantom"), Size(classes=size.classes))
    case = stored_case(folder / "case", scaled(VOLUME, size.voxels), preset.label_space)
    sampler, steps = PatchSampler([case], preset, seed=0, site="growth"), iter(range(10**6))
    return lambda: [sampler.batch(next(steps)) for _ in range(20)]


def scores(size: Size, folder: Path) -> Work:
    """Dice, HD95, ASSD and leakage of every class of one case."""
    space = space_of(size.classes)
    reference = label_volume(scaled(SCORED, size.voxels), size.classes)
    prediction, labelled = np.roll(reference, 1, axis=0), space.labelled_mask(space.classes)
    return lambda: score_case(prediction, reference, spacing_mm=(1.0, 1.0, 2.0), space=space, labelled=labelled)


CLASSES, VOXELS = "classes", "voxels"
TRAINING = {
    "marginal Dice + CE": (loss_of(FedAvg()), (CLASSES, VOXELS)),
    "exclusion Dice + CE": (exclusion_loss, (CLASSES, VOXELS)),
    "conditional distillation": (distillation_loss, (CLASSES, VOXELS)),
    "marginal Lovász": (loss_of(MargExc(marginal={"lovasz": 1.0}, exclusion={})), (CLASSES, VOXELS)),
    "marginal + exclusion (PSMOS)": (loss_of(MargExc()), (CLASSES, VOXELS)),
    "two-channel heads (SegViz)": (loss_of(SegViz(), 2), (CLASSES, VOXELS)),
    "binary heads (MMDS)": (loss_of(Mmds(), 1), (CLASSES, VOXELS)),
    "smoothed Dice, exclusion (Fed-MENU)": (loss_of(FedMenu()), (CLASSES, VOXELS)),
    "step, FedAvg": (step_of(FedAvg()), (CLASSES, VOXELS)),
    "step, ConDistFL": (step_of(ConDistFL()), (CLASSES, VOXELS)),
    "step, PSMOS": (step_of(MargExc()), (CLASSES, VOXELS)),
    "20 batches of patches": (patches, (CLASSES, VOXELS)),
    "scores of a case": (scores, (CLASSES, VOXELS)),
}
"""Name -> workload, and the axes along which it is measured."""
