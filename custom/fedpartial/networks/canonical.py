"""The canonical state of a network: one name per tensor.

MONAI's DynUNet lists its 79 tensors under 156 names in state_dict(). Sending both doubles the traffic
and lets the alias overwrite a server optimiser's result (upstream bug U4). Messages and checkpoints
therefore hold each tensor once, under the first name PyTorch gives it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StateMismatch(ValueError):
    """A state does not fit a network: names, shapes, kinds of number or values differ."""


STATISTICS = ("running_mean", "running_var")


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running statistic of a BatchNorm: averaged, but no parameter that an optimiser may move."""
    return name.rpartition(".")[2] in STATISTICS


def canonical_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The live parameters and persistent buffers, each once, in state_dict order.

    Integers (BatchNorm's num_batches_tracked) stay at the site: they count its own batches, and no mean of them exists.
    """
    unique = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: unique[name] for name in module.state_dict() if name in unique and unique[name].is_floating_point()}


def canonical_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the network's state on the CPU, each tensor once."""
    return {name: tensor.detach().cpu().clone() for name, tensor in canonical_tensors(module).items()}


def load_canonical(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a canonical state into the network; aliases follow because they are the same tensor.

    Raises StateMismatch, before anything is changed, when a name is missing or unknown or a shape differs.
    """
    live = canonical_tensors(module)
    if problem := describe_mismatch({n: tuple(t.shape) for n, t in live.items()}, state):
        raise StateMismatch(problem)
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(torch.as_tensor(state[name]))


def describe_mismatch(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the names and shapes of ``state``, or None."""
    if missing := [name for name in shapes if name not in state]:
        return f"{len(missing)} tensor(s) missing, first {missing[0]!r}"
    if extra := [name for name in state if name not in shapes]:
        return f"{len(extra)} unknown tensor(s), first {extra[0]!r}"
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            return f"tensor {name!r}: got shape {tuple(state[name].shape)}; expected {shape}"
    return None
