"""A federation with private heads in one process: tiny residual U-Net, two hospitals; no FLARE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from federation import TINY
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.assembled import assemble
from fedpartial.presets import ORGANS, OptimizerConfig, UNetConfig
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.heads import check_private_part, initial_shared
from fedpartial.server.update_check import check_update
from fedpartial.sites import SiteConfig
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

TINY_HEADS = replace(
    TINY,
    name="tiny_heads",
    label_space=ORGANS,
    network=UNetConfig(channels=(4, 8), strides=((2, 2, 2),), num_res_units=1, initialisation="pytorch"),
    optimizer=OptimizerConfig(kind="adam", lr=1e-2, weight_decay=0.0, min_lr=1e-3, clip_norm=None),
)


def heads_plan(**changes) -> Plan:
    """A plan for the preset that the fixture ``tiny`` registers."""
    given = {"job": "test", "preset": "tiny_heads", "num_rounds": 2, "local_steps": 2, "seed": 3, "exchange": "trunk"}
    return Plan(**given | changes)


@dataclass(frozen=True, kw_only=True)
class Federated:
    """What a run of private heads leaves: the shared part after every round, each site's session and whole networks."""

    shared: list[dict[str, np.ndarray]]
    sessions: dict[str, SiteSession]
    updates: list[dict[str, dict[str, np.ndarray]]]
    started: list[dict[str, dict[str, Tensor]]]

    def private(self) -> dict[str, dict[str, np.ndarray]]:
        parts = {name: s.trainer.stored_private_part() for name, s in self.sessions.items()}
        return {name: {n: t.numpy() for n, t in part.items()} for name, part in parts.items()}

    def assembled(self, *, whole: bool = False) -> dict[str, np.ndarray]:
        private = self.private()
        for name, part in private.items():
            check_private_part(name, part, self.sessions[name].plan, whole=whole)
        sizes = {name: len(session.split("training")) for name, session in self.sessions.items()}
        return assemble({} if whole else self.shared[-1], private, sizes)


def federate_heads(sites: dict[str, SiteConfig], plan: Plan, folder: Path, **session) -> Federated:
    """Rounds of training and averaging of the shared part; ``session`` goes to every SiteSession."""
    weights, result = initial_shared(plan), Federated(shared=[], sessions={}, updates=[], started=[])
    for name, site in sites.items():
        given = {"site": site, "plan": plan, "method": SegViz(), "state_dir": folder / name, **session}
        result.sessions[name] = SiteSession(**given)
    for number in range(plan.num_rounds):
        updates, started = {}, {}
        for name, site in result.sessions.items():
            received = tensors(weights)
            started[name] = dict(site.starting_weights(received, number))
            done = site.train(received, number, lambda: False)
            updates[name] = {n: tensor.numpy() for n, tensor in done.update.items()}
            check_update(name, updates[name], weights, done.num_steps)
        if session.get("start_from") != "local":
            change = weighted_mean(updates, dict.fromkeys(updates, 1.0))
            weights = {n: value + change[n] for n, value in weights.items()}
        result.shared.append(weights)
        result.updates.append(updates)
        result.started.append(started)
    return result


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
