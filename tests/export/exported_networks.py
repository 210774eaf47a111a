"""Model files of milliseconds, one of each kind of network that can be exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from federation import TINY, TINY_SUPERVISED, tiny_plan
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import MenuConfig, Preset
from fedpartial.training.model_file import model_info, save_model
from fedpartial.training.plan import Plan
from private_heads import TINY_HEADS, heads_plan
from small_universal import SMALL

TINY_MENU = replace(TINY, name="tiny_menu", patch=(8, 8, 8), network=MenuConfig(channels=(2, 4)))
TINY_UNIVERSAL = replace(SMALL, name="tiny_universal")
PRESETS = (TINY_MENU, TINY_UNIVERSAL)
KINDS = ("dynunet", "supervised", "joint", "heads", "menu", "universal")
TAUGHT = ("liver", "pancreas", "kidney")
"""Classes that somebody annotated, where a model file is to say so."""


def write_kind(kind: str, folder: Path, annotated: tuple[str, ...] | None = None) -> Path:
    """A model file of that kind with seeded weights; needs the fixture ``kinds``."""
    path = folder / f"{kind}.safetensors"
    save_model(path, _weights(kind), model_info(_plan(kind), 2, 0.5, annotated=annotated))
    return path


def _plan(kind: str) -> Plan:
    if kind == "heads":
        return heads_plan()
    names = {"dynunet": "tiny", "supervised": "tiny_supervised", "joint": "tiny_heads"}
    return tiny_plan(preset=names.get(kind, f"tiny_{kind}"))


def _weights(kind: str) -> dict[str, np.ndarray]:
    if kind == "heads":
        sites = {site: _state(TINY_HEADS, names) for site, names in (("a", ["liver", "spleen"]), ("b", ["liver"]))}
        return assemble({}, sites, {"a": 3, "b": 2})
    presets = {"dynunet": TINY, "supervised": TINY_SUPERVISED, "joint": TINY_HEADS, "menu": TINY_MENU}
    return _state(presets.get(kind, TINY_UNIVERSAL))


def _state(preset: Preset, head_classes: list[str] | None = None) -> dict[str, np.ndarray]:
    network = build_network(preset, seed=1, head_classes=head_classes)
    return {name: tensor.numpy() for name, tensor in canonical_state(network).items()}
