"""What a change of the phantom preset does: a whole federation in one process, scored on the external set.

    python benchmarks/preset_trial.py                        # the shipped preset and job
    python benchmarks/preset_trial.py --heads 1 --lr 0.3     # one deep-supervision head, another learning rate
    python benchmarks/preset_trial.py --method fedavg --momentum 0

Prints the loss of every site per round and the external Dice at the end. One CPU thread, so runs on an idle
and on a busy machine give the same numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fedpartial import presets
from fedpartial.evaluation.summary import summarise
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.sites import phantom_site
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

SITES = ("kidney", "liver", "pancreas", "spleen")
METHODS = {"condistfl": ConDistFL, "fedavg": FedAvg}


def changed_preset(arguments: argparse.Namespace) -> presets.Preset:
    base = presets.PHANTOM
    return dataclasses.replace(
        base,
        spacing_mm=(arguments.spacing,) * 3,
        patch=(arguments.patch,) * 3,
        network=dataclasses.replace(base.network, deep_supervision_heads=arguments.heads),
        optimizer=dataclasses.replace(base.optimizer, lr=arguments.lr),
    )


def tensors(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def train(plan: Plan, arguments: argparse.Namespace, folder: Path) -> dict[str, np.ndarray]:
    method = METHODS[arguments.method]()
    sessions = {
        site: SiteSession(site=phantom_site(site), plan=plan, method=method, state_dir=folder / site) for site in SITES
    }
    server = ServerSGD(final_lr=0.9 if arguments.momentum else 1.0, momentum=arguments.momentum)
    weights = {n: t.numpy() for n, t in canonical_state(build_network(plan.config, seed=plan.seed)).items()}
    velocity: dict[str, np.ndarray] = {}
    for number in range(plan.num_rounds):
        started, updates, losses = time.process_time(), {}, []
        for site, session in sessions.items():
            result = session.train(tensors(weights), number, lambda: False)
            updates[site] = {name: tensor.numpy() for name, tensor in result.update.items()}
            losses.append(f"{site} {result.metrics['loss']:.3f}")
        mean = weighted_mean(updates, dict.fromkeys(updates, 1.0))
        velocity, step = server.step(velocity, mean, round_number=number, num_rounds=plan.num_rounds)
        weights = {name: weights[name] + step[name] for name in weights}
        print(f"round {number + 1}: loss {', '.join(losses)}; {time.process_time() - started:.0f} CPU s", flush=True)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    base = presets.PHANTOM
    parser.add_argument("--method", choices=METHODS, default="condistfl")
    parser.add_argument("--rounds", type=int, default=base.num_rounds)
    parser.add_argument("--local-steps", type=int, default=base.local_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", type=int, default=base.network.deep_supervision_heads)
    parser.add_argument("--lr", type=float, default=base.optimizer.lr)
    parser.add_argument("--spacing", type=float, default=base.spacing_mm[0])
    parser.add_argument("--patch", type=int, default=base.patch[0])
    parser.add_argument("--momentum", type=float, default=0.6, help="of the server; 0 is the plain mean")
    arguments = parser.parse_args()
    presets.PRESETS["phantom"] = changed_preset(arguments)
    plan = Plan(
        job="trial",
        preset="phantom",
        num_rounds=arguments.rounds,
        local_steps=arguments.local_steps,
        seed=arguments.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = train(plan, arguments, Path(folder))
        external = SiteSession(site=phantom_site("external"), plan=plan, method=None, state_dir=Path(folder))
        for name, scores in summarise(external.score(tensors(weights)), plan.config.label_space).items():
            print(f"{name:15s} Dice {scores['dice']['mean']:.3f} (n {scores['dice']['n']})")


if __name__ == "__main__":
    main()
