"""One name per tensor: what is sent, and that loading it reaches every alias of DynUNet (upstream bug U4)."""

import pytest
import torch
from torch import nn

from federation import TINY
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import (
    StateMismatch,
    canonical_state,
    canonical_tensors,
    describe_mismatch,
    is_statistic,
    load_canonical,
)
from fedpartial.presets import ABDOMEN_PAPER, PHANTOM


@pytest.fixture(scope="module")
def phantom_net():
    return build_network(PHANTOM, seed=0)


@pytest.fixture
def network():
    return build_network(TINY, seed=1)


def unique_parameters(module: nn.Module) -> int:
    """Elements by storage, not by name, so that this count knows nothing of canonical_tensors."""
    return sum({tensor.data_ptr(): tensor.numel() for tensor in module.state_dict().values()}.values())


def test_the_payload_is_the_unique_parameters_of_the_phantoms_network(phantom_net):
    state = canonical_state(phantom_net)
    assert sum(tensor.numel() for tensor in state.values()) == unique_parameters(phantom_net)
    assert len(phantom_net.state_dict()) > len(state), "without aliases this test shows nothing"


def test_the_payload_of_the_papers_network():
    with torch.device("meta"):
        network = build_network(ABDOMEN_PAPER, seed=0)
    tensors = canonical_tensors(network)
    assert len(network.state_dict()) == 156
    assert len(tensors) == 79
    assert sum(tensor.numel() for tensor in tensors.values()) == 31_166_016
    assert sum(tensor.numel() for tensor in network.parameters()) == 31_166_016


def test_names_come_in_the_order_of_state_dict(phantom_net):
    names = list(canonical_state(phantom_net))
    everything = list(phantom_net.state_dict())
    assert names == sorted(names, key=everything.index)
    assert not [name for name in names if name.startswith("skip_layers.")], "first names, not aliases"


def test_buffers_travel_but_neither_nonpersistent_ones_nor_counters():
    module = nn.BatchNorm1d(3)
    module.register_buffer("scratch", torch.zeros(5), persistent=False)
    assert list(canonical_state(module)) == ["weight", "bias", "running_mean", "running_var"]
    assert "num_batches_tracked" in module.state_dict(), "without a counter this test shows nothing"


def test_the_counters_of_a_site_are_its_own():
    """No mean of them exists, and a state that holds one does not fit."""
    module, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    other(torch.randn(4, 3))
    module.num_batches_tracked.fill_(5)
    load_canonical(module, canonical_state(other))
    assert module.num_batches_tracked.item() == 5
    assert torch.equal(module.running_mean, other.running_mean)
    with pytest.raises(StateMismatch, match="num_batches_tracked"):
        load_canonical(module, {**canonical_state(other), "num_batches_tracked": torch.tensor(1.0)})


@pytest.mark.parametrize("prefix", ["", "input_block.norm1.", "running_var."])
def test_statistics_are_known_by_the_last_part_of_their_name(prefix):
    names = canonical_state(nn.BatchNorm1d(3))
    assert [name for name in names if is_statistic(prefix + name)] == ["running_mean", "running_var"]


def test_a_state_is_a_copy(network):
    state = canonical_state(network)
    for tensor in state.values():
        tensor.add_(1.0)
        assert not tensor.requires_grad
    assert all(not torch.equal(state[name], live) for name, live in canonical_tensors(network).items())


def test_loading_reaches_every_alias(network):
    state = {name: torch.randn_like(tensor) for name, tensor in canonical_state(network).items()}
    load_canonical(network, state)
    first_names = {tensor.data_ptr(): name for name, tensor in canonical_tensors(network).items()}
    everything = network.state_dict()
    assert len(everything) > len(state) == len(first_names), "without aliases this test shows nothing"
    wrong = [
        name for name, tensor in everything.items() if not torch.equal(tensor, state[first_names[tensor.data_ptr()]])
    ]
    assert not wrong


def test_loading_changes_what_the_network_computes(network):
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = build_network(TINY, seed=2)
    load_canonical(other, canonical_state(network))
    assert torch.equal(network.eval()(image), other.eval()(image))


def test_loading_copies(network):
    state = canonical_state(network)
    load_canonical(network, state)
    before = canonical_state(network)
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(before[name], live) for name, live in canonical_tensors(network).items())


def spoil(state: dict, how: str) -> tuple[dict, str]:
    """A state with its LAST tensor spoilt, and what the message must name."""
    last = list(state)[-1]
    if how == "missing":
        return {name: tensor for name, tensor in state.items() if name != last}, last
    if how == "extra":
        return {**state, "surplus.weight": torch.zeros(1)}, "surplus.weight"
    if how == "alias":
        return {**state, "skip_layers.downsample.conv1.conv.weight": torch.zeros(1)}, "skip_layers"
    return {**state, last: torch.zeros((*state[last].shape, 1))}, last


@pytest.mark.parametrize("how", ["missing", "extra", "alias", "shape"])
def test_a_state_that_does_not_fit_changes_nothing(network, how):
    before = canonical_state(network)
    state, name = spoil({n: torch.full_like(t, 7.0) for n, t in before.items()}, how)
    with pytest.raises(StateMismatch, match=name):
        load_canonical(network, state)
    assert all(torch.equal(before[n], live) for n, live in canonical_tensors(network).items())


def test_a_shape_that_would_broadcast_is_refused(network):
    state = canonical_state(network)
    name = next(n for n, t in state.items() if t.ndim == 1 and len(t) > 1)
    with pytest.raises(StateMismatch, match=r"got shape \(1,\); expected"):
        load_canonical(network, {**state, name: torch.zeros(1)})


def test_a_fitting_state_has_no_mismatch(network):
    state = canonical_state(network)
    assert describe_mismatch({name: tuple(tensor.shape) for name, tensor in state.items()}, state) is None
