"""Model files as networks ready for use: of one site or all, with one head or many, universal, or two together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedpartial.errors import ConfigError
from fedpartial.networks.assembled import assemble, build_assembled, is_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.known_classes import KnownClasses, of_known_classes
from fedpartial.networks.personal import Personalised, personal_network
from fedpartial.networks.split import is_head
from fedpartial.networks.universal import universal_classes
from fedpartial.presets import Preset, UniversalConfig
from fedpartial.training.model_file import load_model
from fedpartial.training.plan import Plan, differs_in_network_only


def load_network(model_path: Path) -> tuple[nn.Module, Preset]:
    """The network of a model file with its weights, and its preset; ConfigError for a file that holds none."""
    weights, info = load_model(model_path)
    plan = Plan.from_stored(info.plan)
    try:
        if plan.private_heads and not is_assembled(weights):
            weights = _site_alone(model_path, weights)
        if is_assembled(weights):
            return build_assembled(plan.config, weights), plan.config
        network = build_network(plan.config, seed=0, head_classes=_own_classes(plan.config, weights))
        load_canonical(network, {name: torch.from_numpy(value) for name, value in weights.items()})
        network = of_known_classes(network, plan.config, info.annotated)
    except StateMismatch as error:
        expected = f"the tensors of preset {plan.preset}"
        raise _wrong(model_path, "tensors", str(error), expected, "Give a model as a job has written it.") from error
    return network, plan.config


def known_channels(network: nn.Module, preset: Preset) -> list[int]:
    """Channels of the classes that a network of ``load_network`` can answer, without background.

    A network with one head for all classes names no head of its own.
    """
    if answers_all(network, preset):
        return list(range(1, preset.label_space.num_channels))
    return sorted(network.head_channels)


def answers_all(network: nn.Module, preset: Preset) -> bool:
    """Whether one head of the network has all classes, so that each of them can win, taught or not."""
    if isinstance(preset.network, UniversalConfig) or isinstance(network, KnownClasses):
        return False
    return not getattr(network, "head_channels", ())


def load_personal(global_path: Path, local_path: Path) -> tuple[Personalised, Preset]:
    """The network of personalised inference from two files, and its preset; ConfigError for models that do not fit."""
    if local_path.exists() and global_path.exists() and local_path.samefile(global_path):
        raise _wrong("--local", "file", "the global model", "the site's own model", "Give local_model.safetensors.")
    global_, preset = _load_universal(global_path)
    local, local_preset = _load_universal(local_path)
    if not differs_in_network_only(local_preset, preset):
        expected = f"the label space, grid and intensities of {global_path.name}, preset {preset.name}"
        got = f"preset {local_preset.name}, with another {', '.join(_differences(local_preset, preset))}"
        raise _wrong(local_path, "preset", got, expected, "Give two models of one federation.")
    return personal_network(local, global_, preset.label_space), preset


def _load_universal(path: Path) -> tuple[nn.Module, Preset]:
    network, preset = load_network(path)
    if isinstance(preset.network, UniversalConfig):
        return network, preset
    expected = "a model with the universal network (MMDS), whose tensors say which classes it has"
    raise _wrong(path, "network", type(network).__name__, expected, "Without such models leave --local out.")


def _differences(one: Preset, other: Preset) -> list[str]:
    given = (field.name for field in fields(Preset) if field.name not in ("name", "network"))
    return [name for name in given if getattr(one, name) != getattr(other, name)]


def _own_classes(preset: Preset, weights: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    """The classes of a universal network, in the label space's order, as its tensors name them; None for others."""
    if not isinstance(preset.network, UniversalConfig):
        return None
    found, known = universal_classes(weights), preset.label_space.classes
    if foreign := sorted(set(found) - set(known)):
        raise StateMismatch(f"class {foreign[0]!r}, which is not in the label space")
    if not found:
        raise StateMismatch("no embedding of any class")
    return tuple(name for name in known if name in found)


def _site_alone(model_path: Path, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A site's own network with private heads as an assembled model of one site."""
    if not any(is_head(name) for name in weights):
        expected = "the model that a finished run has assembled"
        remedy = "The heads are collected when a run ends: take its global_model.safetensors."
        raise _wrong(model_path, "tensors", "the shared part without any head", expected, remedy)
    return assemble({}, {"site": weights}, {"site": 1})


def _wrong(where: object, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(where), field=field, got=got, expected=expected, remedy=remedy)
