"""What the server sends first, and what it takes as the private part of a site."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import is_head, is_norm
from fedpartial.server.heads import check_private_part, initial_shared
from fedpartial.server.update_check import UpdateRefused
from fedpartial.training.plan import Plan
from private_heads import heads_plan

pytestmark = pytest.mark.usefixtures("tiny")
HEAD, NORM = "heads.spleen.0.conv.weight", "trunk.0.conv.unit0.adn.N.running_var"


def network(plan: Plan, *classes: str) -> dict[str, np.ndarray]:
    """A site's whole network."""
    state = canonical_state(build_network(plan.config, seed=plan.seed, head_classes=classes))
    return {name: tensor.numpy() for name, tensor in state.items()}


def fedbn_part(plan: Plan, *classes: str) -> dict[str, np.ndarray]:
    return {n: value for n, value in network(plan, *classes).items() if is_head(n) or is_norm(n)}


@pytest.mark.parametrize("exchange", ["trunk", "trunk_without_statistics", "trunk_without_norms"])
def test_the_first_message_is_the_part_of_every_sites_seeded_network_that_travels(exchange):
    plan = heads_plan(exchange=exchange)
    sent = initial_shared(plan)
    assert HEAD not in sent
    assert (NORM in sent) == (exchange == "trunk")
    assert (NORM.replace("running_var", "weight") in sent) == (exchange != "trunk_without_norms")
    for classes in (["liver"], ["spleen", "pancreas"]):
        own = network(plan, *classes)
        assert all(np.array_equal(own[name], value) for name, value in sent.items())


def test_a_joint_head_travels_with_its_network():
    sent = initial_shared(heads_plan(exchange="all"))
    assert [name for name in sent if name.startswith("heads.joint.")]
    assert sent.keys() > initial_shared(heads_plan(exchange="trunk")).keys()


@pytest.mark.parametrize("classes", [["spleen"], ["spleen", "liver"]], ids=len)
def test_a_complete_private_part_passes(classes):
    plan = heads_plan(exchange="trunk_without_norms")
    check_private_part("north", fedbn_part(plan, *classes), plan, whole=False)
    check_private_part("north", network(plan, *classes), plan, whole=True)
    plan = heads_plan(exchange="trunk")
    heads = {name: value for name, value in network(plan, *classes).items() if is_head(name)}
    check_private_part("north", heads, plan, whole=False)


def changed(part: dict, name: str, value: object) -> dict:
    return {**part, name: value}


BAD = {
    "a list": (lambda part: list(part.values()), "got list"),
    "numbers for names": (lambda part: dict(enumerate(part.values())), "expected tensors by name"),
    "nothing": (lambda part: {}, "heads: got []"),
    "no head": (lambda part: {n: v for n, v in part.items() if not is_head(n)}, "heads: got []"),
    "foreign class": (lambda part: {n.replace("spleen", "colon"): v for n, v in part.items()}, "got ['colon']"),
    "a head without a class": (lambda part: changed(part, "heads.", part[HEAD]), "got ['spleen', '']"),
    "half a head": (lambda part: {n: v for n, v in part.items() if n != HEAD}, f"missing, first '{HEAD}'"),
    "norms forgotten": (lambda part: {n: v for n, v in part.items() if n != NORM}, f"missing, first '{NORM}'"),
    "trunk as well": (lambda part: changed(part, "trunk.w", part[HEAD]), "unknown tensor(s), first 'trunk.w'"),
    "name of another site": (lambda part: changed(part, f"south/{HEAD}", part[HEAD]), "unknown tensor(s)"),
    "shape": (lambda part: changed(part, HEAD, part[HEAD][..., :1]), f"tensor '{HEAD}': got shape"),
    "NaN": (lambda part: changed(part, NORM, part[NORM] * np.nan), f"tensor '{NORM}': 4 value(s) are NaN"),
    "whole numbers": (lambda part: changed(part, HEAD, part[HEAD].astype(int)), "expected floating-point"),
}


@pytest.mark.parametrize("name", BAD)
def test_another_private_part_is_refused_with_site_and_reason(name):
    plan = heads_plan(exchange="trunk_without_norms")
    change, reason = BAD[name]
    with pytest.raises(UpdateRefused) as caught:
        check_private_part("north", change(fedbn_part(plan, "spleen")), plan, whole=False)
    assert "north" in str(caught.value)
    assert reason in str(caught.value)


def test_a_whole_network_is_refused_where_the_trunk_is_shared_and_asked_for_where_nothing_is():
    plan = heads_plan(exchange="trunk_without_norms")
    with pytest.raises(UpdateRefused, match="unknown tensor"):
        check_private_part("north", network(plan, "spleen"), plan, whole=False)
    with pytest.raises(UpdateRefused, match="missing"):
        check_private_part("north", fedbn_part(plan, "spleen"), plan, whole=True)
