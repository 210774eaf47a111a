"""What a change of a phantom preset does: a whole federation in one process, for one or several learning rates.

    python benchmarks/preset_trial.py                        # the shipped preset and job
    python benchmarks/preset_trial.py --heads 1 --lr 0.3     # one deep-supervision head, another learning rate
    python benchmarks/preset_trial.py --method fedavg --momentum 0
    python benchmarks/preset_trial.py --preset phantom_segviz --method segviz --alone --lr 0.001 0.003 0.01

Prints the loss of every site per round, then each site's validation Dice and, for one model of all classes, the
external Dice. Choose by the validation Dice: the external set is what the results are reported on. ``--alone``: every
site trains for itself. One CPU thread, so runs on an idle and on a busy machine give the same numbers.
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
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import has_private_heads, shared_names
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.sites import phantom_site
from fedpartial.training.evaluator import mean_dice
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

SITES = ("kidney", "liver", "pancreas", "spleen")
METHODS = {
    "condistfl": ConDistFL(),
    "fedavg": FedAvg(),
    "conventional": FedAvg(unlabelled="background"),
    "segviz": SegViz(),
}


def changed_preset(arguments: argparse.Namespace, lr: float | None) -> presets.Preset:
    """The preset with what the command line changes."""
    base = presets.get_preset(arguments.preset)
    network, patch = base.network, arguments.patch or base.patch
    if arguments.heads is not None:
        network = dataclasses.replace(network, deep_supervision_heads=arguments.heads)
    if arguments.channels:
        network = dataclasses.replace(network, channels=tuple(arguments.channels))
    return dataclasses.replace(
        base,
        spacing_mm=(arguments.spacing,) * 3 if arguments.spacing else base.spacing_mm,
        patch=tuple(patch) if len(patch) == 3 else tuple(patch) * 3,
        network=network,
        optimizer=dataclasses.replace(base.optimizer, lr=lr or base.optimizer.lr),
    )


def plan_of(arguments: argparse.Namespace) -> Plan:
    preset = presets.get_preset(arguments.preset)
    return Plan(
        job="trial",
        preset=arguments.preset,
        num_rounds=arguments.rounds or preset.num_rounds,
        local_steps=arguments.local_steps or preset.local_steps,
        seed=arguments.seed,
        exchange=arguments.exchange or ("trunk" if arguments.method == "segviz" else "all"),
    )


def tensors(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def first_weights(plan: Plan) -> dict[str, np.ndarray]:
    """The shared tensors of the first global model."""
    some_head = plan.config.label_space.classes[:1] if has_private_heads(plan.exchange) else None
    state = canonical_state(build_network(plan.config, seed=plan.seed, head_classes=some_head))
    return {name: state[name].numpy() for name in shared_names(state, plan.exchange)}


def train(plan: Plan, sessions: dict[str, SiteSession], server: ServerSGD, *, alone: bool) -> dict[str, np.ndarray]:
    """All rounds; the last global model, which is the first one where nothing is aggregated."""
    weights, velocity = first_weights(plan), {}
    for number in range(plan.num_rounds):
        started, updates, losses = time.process_time(), {}, []
        for site, session in sessions.items():
            result = session.train(tensors(weights), number, lambda: False)
            updates[site] = {name: tensor.numpy() for name, tensor in result.update.items()}
            losses.append(f"{site} {result.metrics['loss']:.3f}")
        if not alone:
            mean = weighted_mean(updates, dict.fromkeys(updates, 1.0))
            velocity, step = server.step(velocity, mean, round_number=number, num_rounds=plan.num_rounds)
            weights = {name: weights[name] + step[name] for name in weights}
        print(f"round {number + 1}: loss {', '.join(losses)}; {time.process_time() - started:.0f} CPU s", flush=True)
    return weights


def trial(arguments: argparse.Namespace, lr: float | None, folder: Path) -> None:
    """Train with one learning rate and print the scores."""
    presets.PRESETS[arguments.preset] = changed_preset(arguments, lr)
    plan, method = plan_of(arguments), METHODS[arguments.method]
    start_from = "local" if arguments.alone else "global"
    sessions = {
        site: SiteSession(
            site=phantom_site(site), plan=plan, method=method, state_dir=folder / site, start_from=start_from
        )
        for site in SITES
    }
    momentum = arguments.momentum
    server = ServerSGD(final_lr=0.9 if momentum else 1.0, momentum=momentum)
    started = time.process_time()
    weights = tensors(train(plan, sessions, server, alone=arguments.alone))
    print(f"lr {plan.config.optimizer.lr:g}: {time.process_time() - started:.0f} CPU s")
    for site, session in sessions.items():
        own = session.starting_weights(weights, plan.num_rounds)
        scores = mean_dice(session.validation_scores(own)).items()
        print(f"validation {site:9s}", ", ".join(f"{name} {dice:.3f}" for name, dice in scores), flush=True)
    if not arguments.alone and not has_private_heads(plan.exchange):
        external = SiteSession(site=phantom_site("external"), plan=plan, method=None, state_dir=folder)
        for name, scores in summarise(external.score(weights), plan.config.label_space).items():
            print(f"external {name:15s} Dice {scores['dice']['mean']:.3f} (n {scores['dice']['n']})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="phantom")
    parser.add_argument("--method", choices=METHODS, default="condistfl")
    parser.add_argument("--exchange", help="what travels; by default the trunk for segviz, else everything")
    parser.add_argument("--alone", action="store_true", help="aggregate nothing")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--local-steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, nargs="+", default=[None])
    parser.add_argument("--heads", type=int, help="deep-supervision heads of a DynUNet")
    parser.add_argument("--channels", type=int, nargs="+", help="of a residual U-Net, one number per level")
    parser.add_argument("--spacing", type=float)
    parser.add_argument("--patch", type=int, nargs="+")
    parser.add_argument("--momentum", type=float, help="of the server; 0, the plain mean, but for condistfl")
    arguments = parser.parse_args()
    if arguments.momentum is None:
        arguments.momentum = 0.6 if arguments.method == "condistfl" else 0.0
    for lr in arguments.lr:
        with tempfile.TemporaryDirectory() as folder:
            trial(arguments, lr, Path(folder))


if __name__ == "__main__":
    main()
