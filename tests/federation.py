"""A federation in one process: two tiny hospitals, update check, mean, server optimiser; no FLARE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_hospital import write_case, write_site

from fedpartial.methods.base import Method
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import PHANTOM, NetworkConfig
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.server.update_check import check_update
from fedpartial.sites import SiteConfig
from fedpartial.training.local_trainer import StartFrom
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

TINY = replace(
    PHANTOM,
    name="tiny",
    spacing_mm=(2.0, 2.0, 2.0),
    patch=(16, 16, 16),
    # MONAI's DynUNet takes three levels at least.
    network=NetworkConfig(
        kernels=((3, 3, 3),) * 3, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), filters=(4, 8, 8), deep_supervision_heads=0
    ),
    num_rounds=2,
    local_steps=2,
)
TINY_SUPERVISED = replace(TINY, name="tiny_supervised", network=replace(TINY.network, deep_supervision_heads=1))
TINY_PRESETS = (TINY, TINY_SUPERVISED)
SITE_LABELS = {"liver": {1: "liver", 2: "liver_tumor"}, "spleen": {1: "spleen", 2: "background"}}


def complete_labels() -> dict[int, str]:
    """Label values of a site that annotates every class of the tiny presets, in channel order."""
    return dict(enumerate(TINY.label_space.classes, start=1))


def tiny_plan(**changes) -> Plan:
    """A plan for the preset that the fixture ``tiny`` registers."""
    return Plan(**{"job": "test", "preset": "tiny", "num_rounds": 2, "local_steps": 2, "seed": 3, **changes})


def tiny_sites(root: Path) -> dict[str, SiteConfig]:
    """Sites by name: two training cases, one for validation, one for testing (16 x 14 x 12 voxels of 2 mm)."""
    counts = {"training": 2, "validation": 1, "testing": 1}
    sites = {}
    for number, (name, labels) in enumerate(SITE_LABELS.items()):
        cases = {
            split: [write_case(root / name, f"{split}{i}", seed=100 * number + 10 * i + len(split)) for i in range(n)]
            for split, n in counts.items()
        }
        sites[name] = replace(write_site(root / name, cases, labels), name=name, device="cpu")
    return sites


def federate(
    sites: dict[str, SiteConfig],
    plan: Plan,
    method: Method,
    folder: Path,
    optimizer: ServerSGD | None = None,
    start_from: StartFrom = "global",
) -> list[dict[str, np.ndarray]]:
    """The global weights after every round; without an optimizer the mean update is added as it is.

    With ``start_from`` "local" nothing is aggregated: the mean of the local models after every round, which for one
    site is its model.
    """
    weights = {n: t.numpy() for n, t in canonical_state(build_network(plan.config, seed=plan.seed)).items()}
    sessions = {
        name: SiteSession(site=site, plan=plan, method=method, state_dir=folder / name, start_from=start_from)
        for name, site in sites.items()
    }
    velocity: dict[str, np.ndarray] = {}
    rounds = []
    for number in range(plan.num_rounds):
        updates = {}
        for name, session in sessions.items():
            received = {n: torch.from_numpy(value.copy()) for n, value in weights.items()}
            result = session.train(received, number, lambda: False)
            updates[name] = {n: tensor.numpy() for n, tensor in result.update.items()}
            check_update(name, updates[name], weights, result.num_steps)
        if start_from == "local":
            rounds.append(mean_of([session.trainer.local_weights() for session in sessions.values()]))
            continue
        change = weighted_mean(updates, dict.fromkeys(updates, 1.0))
        if optimizer is not None:
            velocity, change = optimizer.step(velocity, change, round_number=number, num_rounds=plan.num_rounds)
        weights = {n: value + change[n] for n, value in weights.items()}
        rounds.append(weights)
    return rounds


def mean_of(models: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """The mean of models by tensor; one model is itself, bit for bit."""
    return {name: np.mean([model[name].numpy() for model in models], axis=0) for name in models[0]}
