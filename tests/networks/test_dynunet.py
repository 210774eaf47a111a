"""The network of the presets: seeded, and with the outputs that losses and evaluation expect."""

import pytest
import torch
from torch.nn.functional import interpolate

from federation import TINY, TINY_PRESETS, TINY_SUPERVISED
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import ABDOMEN_PAPER, PHANTOM


def states_equal(a: dict, b: dict) -> list[bool]:
    assert list(a) == list(b)
    return [torch.equal(a[name], b[name]) for name in a]


def test_the_same_seed_gives_the_same_weights():
    assert all(states_equal(*(canonical_state(build_network(TINY, seed=5)) for _ in range(2))))


def test_another_seed_gives_other_convolutions():
    first, second = (canonical_state(build_network(TINY, seed=seed)) for seed in (5, 6))
    convolutions = [name for name in first if first[name].ndim == 5]
    assert len(convolutions) > 5
    assert not [name for name in convolutions if torch.equal(first[name], second[name])]


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_network(TINY, seed=5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("preset", TINY_PRESETS, ids=lambda p: p.name)
@pytest.mark.parametrize("training", [True, False])
def test_output_shapes(preset, training):
    network = build_network(preset, seed=0).train(training)
    output = network(torch.zeros(2, 1, 16, 16, 8))
    shape = (2, preset.label_space.num_channels, 16, 16, 8)
    if training:
        halves = [(*shape[:2], 16 >> level, 16 >> level, 8 >> level) for level in range(preset.network.num_outputs)]
        assert [tuple(head.shape) for head in training_outputs(output)] == halves
    else:
        assert tuple(output.shape) == shape


def test_the_first_head_is_the_output_of_evaluation():
    network = build_network(TINY_SUPERVISED, seed=0)
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = training_outputs(network.train()(image))
    assert torch.equal(first, network.eval()(image))
    assert tuple(second.shape[2:]) == (8, 8, 8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_heads_and_gradients_are_those_of_monais_forward_pass(layout):
    """MONAI enlarges every head to full resolution and stacks them."""
    from monai.networks.nets.dynunet import DynUNet

    network = build_network(TINY_SUPERVISED, seed=0).double().to(memory_format=layout)
    image = torch.randn(2, 1, 16, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heads = training_outputs(network(image))
    monai = DynUNet.forward(network, image).unbind(1)
    assert len(heads) == len(monai) > 1
    for ours, theirs in zip(heads, monai, strict=True):
        torch.testing.assert_close(interpolate(ours, theirs.shape[2:]), theirs, rtol=1e-9, atol=1e-9)


def test_evaluation_computes_no_other_heads():
    network, asked = build_network(TINY_SUPERVISED, seed=0), []
    network.deep_supervision_heads[0].register_forward_hook(lambda *_: asked.append(True))
    image = torch.zeros(1, 1, 16, 16, 16)
    network.eval()(image)
    assert not asked
    network.train()(image)
    assert asked


@pytest.mark.parametrize("preset", [PHANTOM, ABDOMEN_PAPER], ids=lambda p: p.name)
def test_the_presets_of_the_house_fit_their_patch(preset):
    """On the meta device: shapes without memory."""
    with torch.device("meta"):
        network = build_network(preset, seed=0)
        image = torch.empty(1, 1, *preset.patch)
        outputs = training_outputs(network.train()(image))
    assert len(outputs) == preset.network.num_outputs
    assert tuple(outputs[0].shape) == (1, preset.label_space.num_channels, *preset.patch)
    assert all(
        size % coarse == 0 for head in outputs for size, coarse in zip(preset.patch, head.shape[2:], strict=True)
    )
    assert tuple(network.eval()(image).shape) == (1, preset.label_space.num_channels, *preset.patch)
