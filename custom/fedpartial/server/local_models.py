"""What a site's local model must be before it goes into the store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.networks.universal import EMBEDDINGS, universal_classes
from fedpartial.presets import Preset
from fedpartial.server.update_check import UpdateRefused, check_update
from fedpartial.training.plan import Plan

LOOK_VOXELS = 32
"""Side of the largest patch that is looked at, a multiple of every network's steps down; 64 took the paper's network
36 s on two busy cores."""


def check_local_model(site: str, model: object, plan: Plan, embeddings: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The classes of a site's whole model, which fits its preset; UpdateRefused, by name and tensor, for another.

    Finite weights may still give infinite numbers, so it looks once at a patch of noise that follows from the seed.

    embeddings: the vectors that the server gave, by class; of other classes the seeded ones are expected. Two models
    with different vectors for a class would not speak of the same class.
    """
    if not isinstance(model, Mapping) or not all(isinstance(name, str) for name in model):
        raise UpdateRefused(f"model of {site} refused: got {type(model).__name__}; expected tensors by name")
    preset, classes = plan.for_site(site).config, universal_classes(model)
    if unasked := set(classes) - set(plan.site_classes.get(site, classes)):
        raise UpdateRefused(f"model of {site} refused: it has {sorted(unasked)[0]!r}, which was not asked for")
    try:
        network = build_network(preset, seed=plan.seed, head_classes=classes)
    except ConfigError as error:
        raise UpdateRefused(f"model of {site} refused: {error}") from None
    expected = {name: tensor.numpy() for name, tensor in canonical_state(network).items()}
    try:
        check_update(site, model, expected, 1)
    except UpdateRefused as refusal:
        raise UpdateRefused(str(refusal).replace("update from", "model of", 1)) from None
    if other := [name for name, value in model.items() if value.dtype != np.float32]:
        kind = model[other[0]].dtype
        raise UpdateRefused(f"model of {site} refused: tensor {other[0]!r}: got {kind}; expected float32")
    for klass in classes:
        name = f"{EMBEDDINGS}{klass}"
        if not np.array_equal(model[name], embeddings.get(klass, expected[name])):
            raise UpdateRefused(f"model of {site} refused: tensor {name!r} is not the vector of that class here")
    load_canonical(network, {name: torch.from_numpy(value) for name, value in model.items()})
    if not torch.isfinite(_first_look(network, preset, plan.seed)).all():
        raise UpdateRefused(f"model of {site} refused: its outputs are not finite")
    return classes


def _first_look(network: nn.Module, preset: Preset, seed: int) -> Tensor:
    """Logits (1, K, H, W, D) of a patch of standard normal noise, in evaluation mode."""
    shape = [min(size, LOOK_VOXELS) for size in preset.patch]
    noise = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return network.eval().class_logits(noise)
