"""A stored model as a network again, and whether it can stand beside a job's models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedpartial.errors import ConfigError
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.universal import build_universal
from fedpartial.presets import Preset, UniversalConfig, get_preset
from fedpartial.server.store_manifest import GLOBAL, Entry
from fedpartial.training.plan import Plan, differs_in_network_only


def check_preset(entry: Entry, plan: Plan, where: str) -> None:
    """ConfigError for a model of other classes, another grid or other intensities than the plan's."""
    try:
        preset = get_preset(entry.preset, merge_lesions=plan.merge_lesions)
    except ConfigError:  # an earlier fedpartial had it
        preset = None
    if preset is None or not differs_in_network_only(preset, plan.config):
        raise ConfigError(
            where=where,
            field=f"{entry.site}, version {entry.version}",
            got=f"a model of preset {entry.preset!r}",
            expected=f"models of presets that differ from {plan.preset!r} in their network only",
            remedy=f"Let the job name another federation{_or_remove(entry)}",
        )


def check_start(entry: Entry, preset: Preset, where: str) -> None:
    """ConfigError for a global model that training of this preset's network cannot begin with."""
    if _arguments(entry) != preset.network:
        raise ConfigError(
            where=where,
            field="warm_start",
            got=f"global model {entry.version} of another network, preset {entry.preset!r}",
            expected=f"the network of preset {preset.name!r}",
            remedy="Set warm_start to false in the job, or take the preset of that model.",
        )


def stored_network(entry: Entry, weights: Mapping[str, np.ndarray], preset: Preset, where: str) -> nn.Module:
    """A stored model as it was built then, whatever its preset's network is by now; ConfigError names the entry.

    preset: all but the network of what the model was made with.
    """
    try:
        given = replace(preset, network=_arguments(entry))
        network = build_universal(given, seed=0, classes=entry.classes)
        load_canonical(network, {name: torch.from_numpy(value) for name, value in weights.items()})
    except (TypeError, StateMismatch, ConfigError) as error:
        raise ConfigError(
            where=where,
            field=f"{entry.site}, version {entry.version}",
            got=f"a model that cannot be built: {error}",
            expected=f"the {entry.architecture['name']} of its entry",
            remedy=f"Use the fedpartial that stored it{_or_remove(entry)}",
        ) from error
    return network


def _arguments(entry: Entry) -> UniversalConfig:
    """TypeError for arguments that the network does not have."""
    given = entry.architecture["arguments"]
    return UniversalConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def _or_remove(entry: Entry) -> str:
    return "." if entry.site == GLOBAL else f", or remove the model: fedpartial store remove {entry.site}"
