"""The residual U-Net of SegViz: the paper's numbers, names that say what is whose, heads that stand alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from federation import TINY
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.residual_unet import ABSENT
from fedpartial.presets import PHANTOM, PRESETS, UNetConfig
from segviz_sites import SMALL, image

PAPER_CONFIG = UNetConfig(
    channels=(16, 32, 64, 128, 256), strides=((2, 2, 2),) * 4, num_res_units=2, initialisation="default"
)
PAPER = replace(PHANTOM, name="paper", label_space=PHANTOM.label_space.merged, network=PAPER_CONFIG)
CLASSES = ("liver", "spleen", "pancreas", "kidney")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Running statistics of a network in use, so that evaluation differs from torch's start values."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + ("var" in name))
    return network


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return build_network(PAPER, seed=0, head_classes=["liver"])


def test_the_papers_network_has_the_papers_numbers(paper):
    head = paper.heads["liver"]
    assert count(paper) == 4_808_917
    assert (len(list(head.parameters())), count(head)) == (7, 1_845)
    assert [tuple(buffer.shape) for buffer in head.buffers() if buffer.is_floating_point()] == [(2,), (2,)]


def test_every_tensor_is_the_trunks_or_a_heads(paper):
    names = list(paper.state_dict())
    assert [n for n in names if not n.startswith(("trunk.", "heads.liver."))] == []
    assert "heads.liver.0.adn.N.running_var" in names
    assert "trunk.0.conv.unit0.adn.N.weight" in names


def test_it_computes_what_monais_network_computes():
    from monai.networks.nets.unet import UNet

    network = build_network(SMALL, seed=0)
    config = SMALL.network
    theirs = UNet(3, 1, 5, config.channels, config.strides, num_res_units=config.num_res_units, norm="BATCH")
    renamed = {
        n.replace("trunk.", "model.").replace("heads.joint.", "model.2."): t for n, t in network.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    assert count(theirs) == count(network)
    assert torch.equal(network.train()(image()), theirs.train()(image()))
    assert torch.equal(network.eval()(image()), theirs.eval()(image()))


def test_the_trunk_follows_from_the_seed_only():
    states = [canonical_state(build_network(SMALL, seed=3, head_classes=c)) for c in (None, ["liver"], CLASSES)]
    trunk = [name for name in states[0] if name.startswith("trunk.")]
    assert len(trunk) > 20
    assert all(torch.equal(states[0][n], other[n]) for other in states[1:] for n in trunk)
    other_seed = canonical_state(build_network(SMALL, seed=4))
    assert not [n for n in trunk if states[0][n].ndim == 5 and torch.equal(states[0][n], other_seed[n])]


def test_a_head_starts_the_same_whatever_stands_beside_it():
    alone, among = (build_network(SMALL, seed=3, head_classes=c).heads for c in (["pancreas"], CLASSES))
    ours = canonical_state(alone["pancreas"])
    assert len(ours) == 9
    assert all(torch.equal(t, canonical_state(among["pancreas"])[n]) for n, t in ours.items())
    assert not torch.equal(ours["0.conv.weight"], among["liver"][0].conv.weight)


@pytest.mark.parametrize("initialisation", ["default", "lecun"])
def test_the_callers_random_state_is_left_alone(initialisation):
    preset = replace(SMALL, network=replace(SMALL.network, initialisation=initialisation))
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_network(preset, seed=5, head_classes=["liver"])
    assert torch.equal(torch.rand(3), expected)


def test_lecun_weights_have_variance_one_over_fan_in_and_no_bias():
    config = replace(SMALL.network, channels=(16, 32, 48), initialisation="lecun")
    network = build_network(replace(SMALL, network=config), seed=0)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    large = [m for m in convolutions if m.weight.numel() > 10_000]
    assert len(large) >= 4
    for module in large:
        expected = (module.in_channels * module.kernel_size[0] ** 3) ** -0.5
        assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert module.weight.mean().abs().item() < 0.05 * expected
    assert not any(module.bias.any() for module in convolutions)


def test_in_training_every_class_has_two_logits_in_the_order_of_the_heads():
    network = build_network(SMALL, seed=0, head_classes=["kidney", "liver"]).train()
    (output,) = training_outputs(network(image()))
    assert tuple(output.shape) == (2, 2, 2, 8, 8, 4)
    assert torch.equal(output[:, 0], network.heads["kidney"](network.trunk(image())))
    assert network.head_channels == (4, 1)


def test_in_evaluation_a_class_has_its_heads_log_odds_and_the_others_are_absent():
    network = with_random_statistics(build_network(SMALL, seed=0, head_classes=["kidney", "liver"])).eval()
    found = network(image())
    assert tuple(found.shape) == (2, 5, 8, 8, 4)
    for name, channel in (("kidney", 4), ("liver", 1)):
        logits = network.heads[name](network.trunk(image()))
        probability = logits.softmax(dim=1)
        assert torch.equal(found[:, channel], logits[:, 1] - logits[:, 0])
        torch.testing.assert_close(found[:, channel], (probability[:, 1] / probability[:, 0]).log())
    assert not found[:, 0].any()
    assert (found[:, 2:4] == ABSENT).all()
    labels = found.argmax(1)
    assert len(labels.unique()) > 1, "the random network must say something"
    assert torch.equal(labels == 0, (found[:, 1:] <= 0).all(1))


def test_half_precision_scores_are_computed_in_float32():
    network = build_network(SMALL, seed=0, head_classes=["liver"]).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(image()).dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_a_joint_head_has_every_channel(training):
    network = build_network(SMALL, seed=0).train(training)
    assert tuple(network(image()).shape) == (2, 5, 8, 8, 4)
    assert list(network.heads) == ["joint"]


@pytest.mark.parametrize("classes", [[], ["liver", "liver"], ["liver_tumor"], ["background"], ["joint"]])
def test_heads_that_are_no_classes_are_refused(classes):
    with pytest.raises(ConfigError, match="different classes"):
        build_network(SMALL, seed=0, head_classes=classes)


def test_a_dynunet_has_no_private_heads():
    with pytest.raises(ConfigError, match="private heads"):
        build_network(TINY, seed=0, head_classes=["liver"])


@pytest.mark.parametrize(
    "preset", [p for p in PRESETS.values() if isinstance(p.network, UNetConfig)], ids=lambda p: p.name
)
def test_the_presets_of_the_house_fit_their_patch(preset):
    """On the meta device: shapes without memory."""
    classes = preset.label_space.classes
    with torch.device("meta"):
        network = build_network(preset, seed=0, head_classes=classes)
        patch = torch.empty(1, 1, *preset.patch)
    assert tuple(network.train()(patch).shape) == (1, len(classes), 2, *preset.patch)
    assert tuple(network.eval()(patch).shape) == (1, len(classes) + 1, *preset.patch)


def test_there_are_presets_with_private_heads():
    assert {name for name, p in PRESETS.items() if isinstance(p.network, UNetConfig)} >= {"segviz", "phantom_segviz"}
