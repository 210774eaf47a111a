"""The assembled model is every site's own network, bit for bit, and says what several heads of a class mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from federation import TINY
from fedpartial.errors import ConfigError
from fedpartial.networks.assembled import assemble, build_assembled, is_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, canonical_state, load_canonical
from fedpartial.networks.residual_unet import ABSENT
from fedpartial.networks.split import is_shared
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan
from segviz_sites import SMALL, image, random_state

SITES = {"north.example.org": ["liver"], "south": ["spleen", "kidney"]}
TRAINING = {"north.example.org": 3, "south": 5}


def federation(sites: dict[str, list[str]], exchange: str) -> tuple[dict, dict[str, dict]]:
    """Shared tensors and each site's private ones, all random; the shared ones are the same everywhere."""
    states = {site: random_state(classes, seed=number) for number, (site, classes) in enumerate(sites.items())}
    first = next(iter(states.values()))
    shared = {n: t for n, t in first.items() if exchange != "none" and is_shared(n, exchange)}
    return shared, {site: {n: t for n, t in s.items() if n not in shared} for site, s in states.items()}


def own_network(classes: list[str], state: dict) -> nn.Module:
    network = build_network(SMALL, seed=9, head_classes=classes)
    load_canonical(network, {n: torch.from_numpy(t) for n, t in state.items()})
    return network.eval()


@pytest.fixture(scope="module")
def state():
    shared, private = federation(SITES, "trunk")
    return assemble(shared, private, TRAINING)


@pytest.mark.parametrize("exchange", ["trunk", "trunk_without_statistics", "trunk_without_norms", "none"])
def test_every_class_is_its_sites_own_prediction_bit_for_bit(exchange):
    shared, private = federation(SITES, exchange)
    found = build_assembled(SMALL, assemble(shared, private, TRAINING))(image())
    seen = {0}
    for site, classes in SITES.items():
        own = own_network(classes, shared | private[site])(image())
        for channel in (SMALL.label_space.index(name) for name in classes):
            assert torch.equal(found[:, channel], own[:, channel])
            seen.add(channel)
    rest = [channel for channel in range(SMALL.label_space.num_channels) if channel not in seen]
    assert (found[:, rest] == ABSENT).all()
    assert not found[:, 0].any()
    assert len(found.argmax(1).unique()) > 2, "random heads must disagree"


@pytest.mark.parametrize(
    ("exchange", "trunks"), [("trunk", 1), ("trunk_without_statistics", 2), ("trunk_without_norms", 2), ("none", 2)]
)
def test_a_trunk_runs_once_for_all_sites_that_share_it_wholly(exchange, trunks):
    network = build_assembled(SMALL, assemble(*federation(SITES, exchange), TRAINING))
    passes = []
    for group in network.groups:
        group.trunk.register_forward_hook(lambda *_: passes.append(1))
    network(image())
    assert len(passes) == trunks
    assert network.head_channels == (1, 2, 4)
    assert not network.training


def test_heads_of_one_class_have_the_log_odds_of_their_weighted_mean_probability():
    sites = {"a": ["liver"], "b": ["liver", "spleen"], "c": ["liver"]}
    training = {"a": 1, "b": 4, "c": 2}
    shared, private = federation(sites, "trunk_without_norms")
    found = build_assembled(SMALL, assemble(shared, private, training))(image()).numpy()
    own = {site: own_network(c, shared | private[site])(image()).detach().numpy() for site, c in sites.items()}
    mean = sum(training[site] / (1 + np.exp(-own[site][:, 1].astype(np.float64))) for site in sites) / 7
    np.testing.assert_allclose(found[:, 1], np.log(mean / (1 - mean)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[:, 2], own["b"][:, 2])


def test_certain_heads_of_one_class_stay_finite():
    shared, private = federation({"a": ["liver"], "b": ["liver"]}, "trunk")
    for tensors in private.values():
        tensors["heads.liver.1.conv.unit0.conv.bias"][:] = [-1e4, 1e4]
    found = build_assembled(SMALL, assemble(shared, private, {"a": 1, "b": 1}))(image())
    assert torch.isfinite(found).all()
    assert (found[:, 1] > 1e4).all()


def test_it_survives_a_file_and_another_order_of_names(state, tmp_path):
    expected = build_assembled(SMALL, state)(image())
    plan = Plan(job="test", preset="phantom", num_rounds=1, local_steps=1)
    save_model(tmp_path / "model.safetensors", dict(reversed(state.items())), model_info(plan, 1))
    read, _ = load_model(tmp_path / "model.safetensors")
    assert set(read) == set(state)
    assert torch.equal(build_assembled(SMALL, read)(image()), expected)


def test_the_names_tell_an_assembled_state_from_a_networks(state):
    assert is_assembled(state)
    assert not is_assembled(canonical_state(build_network(SMALL, seed=0)))
    assert {"south/heads.kidney.0.conv.weight", "north.example.org/num_training", "trunk.0.residual.weight"} < set(
        state
    )
    assert state["south/num_training"].dtype == np.float32


def without(name):
    return lambda state: state.pop(name)


def setting(name, value):
    return lambda state: state.update({name: np.asarray(value, dtype=np.float32)})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("south/heads.kidney.0.conv.weight"), ("'south'", "heads.kidney.0.conv.weight", "missing")),
        (without("trunk.0.residual.bias"), ("site", "trunk.0.residual.bias", "missing")),
        (without("south/num_training"), ("'south'", "num_training", "[]")),
        (setting("south/num_training", 0), ("'south'", "num_training", "above 0")),
        (setting("south/num_training", [1, 2]), ("'south'", "num_training", "one number")),
        (setting("south/num_training", np.nan), ("'south'", "num_training", "nan")),
        (setting("south/heads.kidney.0.conv.weight", [1, 2]), ("'south'", "heads.kidney.0.conv.weight", "shape")),
        (setting("south/heads.lung.0.conv.weight", [1]), ("'south'", "heads.lung.0.conv.weight", "no class")),
        (setting("south/heads.joint.0.conv.weight", [1]), ("'south'", "heads.joint.0.conv.weight", "no class")),
        (setting("south/trunk.more", [1]), ("'south'", "trunk.more", "unknown")),
        (setting("trunk.more", [1]), ("site", "trunk.more", "unknown")),
        (setting("south/trunk.0.residual.bias", np.zeros(4)), ("'south'", "trunk.0.residual.bias", "both")),
        (setting("west/num_training", 1), ("'west'", "no tensor of a head")),
    ],
)
def test_a_foreign_or_incomplete_state_is_one_error_that_names_site_and_tensor(state, spoil, words):
    spoilt = dict(state)
    spoil(spoilt)
    with pytest.raises(StateMismatch) as caught:
        build_assembled(SMALL, spoilt)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_state_without_sites_is_refused(state):
    with pytest.raises(StateMismatch, match="no head"):
        build_assembled(SMALL, {n: t for n, t in state.items() if "/" not in n})


def test_a_preset_without_private_heads_is_refused(state):
    with pytest.raises(ConfigError, match="private heads"):
        build_assembled(TINY, state)
