"""What a site's private part must be before it goes into the assembled model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import head_classes, is_shared
from fedpartial.server.update_check import UpdateRefused, check_update
from fedpartial.training.plan import Plan


def initial_shared(plan: Plan) -> dict[str, np.ndarray]:
    """The seeded tensors that travel: the whole network, or what is shared of one with private heads."""
    # The trunk is the same whatever head stands on it.
    heads = plan.config.label_space.classes[:1] if plan.private_heads else plan.head_classes
    state = canonical_state(build_network(plan.config, seed=plan.seed, head_classes=heads))
    return {name: tensor.numpy() for name, tensor in state.items() if is_shared(name, plan.exchange)}


def check_private_part(site: str, part: object, plan: Plan, *, whole: bool) -> None:
    """Raise UpdateRefused unless this is a complete private part of a network of ``plan``, finite and of its shapes.

    whole: the site keeps all of its network (standalone), not only what is private.
    """
    if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part):
        raise UpdateRefused(f"heads from {site} refused: got {type(part).__name__}; expected tensors by name")
    try:
        network = build_network(plan.config, seed=plan.seed, head_classes=head_classes(part))
    except ConfigError as error:
        raise UpdateRefused(f"heads from {site} refused: {error}") from None
    expected = {
        name: tensor.numpy()
        for name, tensor in canonical_state(network).items()
        if whole or not is_shared(name, plan.exchange)
    }
    try:
        check_update(site, part, expected, 1)
    except UpdateRefused as refusal:
        raise UpdateRefused(str(refusal).replace("update from", "heads from", 1)) from None
