"""MENU-Net: the published size, and which gradients reach which part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from federation import TINY
from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace, Organ
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.classes import has_class_rows, tensor_classes
from fedpartial.networks.menu import AUXILIARY, WHOLE, MenuNet
from fedpartial.presets import SIDED_ORGANS, MenuConfig

PUBLISHED_ORGANS = LabelSpace(
    organs=tuple(Organ(name=name) for name in ("liver", "kidney", "pancreas", "spleen", "gallbladder"))
)
PAPER = replace(TINY, label_space=PUBLISHED_ORGANS, patch=(32, 32, 32), network=MenuConfig(channels=(20, 40, 80, 160)))
SMALL = replace(TINY, label_space=SIDED_ORGANS, network=MenuConfig(channels=(2, 4)))
"""Patch 16 x 16 x 16; liver, spleen, pancreas, both kidneys."""


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image(cases: int = 2) -> Tensor:
    return torch.randn(cases, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def labelled(*cases: tuple[str, ...]) -> Tensor:
    return torch.stack([torch.from_numpy(SIDED_ORGANS.labelled_mask(names)) for names in cases])


def network() -> MenuNet:
    return build_network(SMALL, seed=0).train()


def moved(net: nn.Module) -> set[str]:
    """Parts with a gradient: names of organs, "decoder", "agd". A part has one in every used tensor or in none."""
    found = {}
    for name, parameter in net.named_parameters():
        part = name.split(".")[1] if name.startswith("encoders.") else name.split(".")[0]
        if "side_outputs" not in name:
            found.setdefault(part, set()).add(parameter.grad is not None)
    assert all(len(states) == 1 for states in found.values())
    return {part for part, states in found.items() if states == {True}}


def gradients(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in net.named_parameters() if name.startswith(prefix)}
    net.zero_grad()
    return found


def test_the_published_network_has_the_published_numbers():
    with torch.device("meta"):
        net = build_network(PAPER, seed=0)
    assert {count(encoder) for encoder in net.encoders.values()} == {1_372_740}
    assert len(net.encoders) == 5
    assert count(net.decoder) == 70_534_330
    assert count(net.agd) == 205_528
    assert count(net) == 77_603_558


def test_an_organ_of_two_sides_has_one_encoder():
    net = network()
    assert list(net.encoders) == ["liver", "spleen", "pancreas", "kidney"]
    assert net.organ_channels["kidney"] == (4, 5)
    assert net.decoder.output.out_channels == 6


def test_the_output_has_all_channels_at_full_resolution():
    net = network()
    output = net(image())
    assert output.shape == (2, 6, 16, 16, 16)
    assert training_outputs(output)[0] is output
    with torch.no_grad():
        assert torch.equal(net.eval()(image()), output.detach())


def test_the_first_pass_computes_what_inference_computes():
    net = network()
    (output,) = net.train_pass(image(), labelled(("liver",), ("spleen",)), WHOLE)
    assert torch.equal(output, net(image()))


def test_the_first_pass_reaches_the_decoder_and_the_encoders_of_annotated_organs():
    net = network()
    (output,) = net.train_pass(image(), labelled(("liver",), ("liver",)), WHOLE)
    output.square().sum().backward()
    assert moved(net) == {"liver", "decoder"}
    assert gradients(net, "encoders.liver.0")["encoders.liver.0.0.weight"].any()


@pytest.mark.parametrize("side", ["kidney_left", "kidney_right"])
def test_one_side_is_enough_to_train_the_encoder_of_the_organ(side):
    net = network()
    (output,) = net.train_pass(image(), labelled((side,), (side,)), WHOLE)
    output.square().sum().backward()
    assert moved(net) == {"kidney", "decoder"}


def test_a_case_gives_no_gradient_to_the_encoder_of_an_organ_it_does_not_annotate():
    """With the loss on the second case only, which annotates the spleen, the liver's gradient is exactly zero."""
    net = network()
    (output,) = net.train_pass(image(), labelled(("liver",), ("spleen",)), WHOLE)
    output[1].square().sum().backward()
    assert moved(net) == {"liver", "spleen", "decoder"}
    assert not any(gradient.any() for gradient in gradients(net, "encoders.liver").values())
    (output,) = net.train_pass(image(), labelled(("liver",), ("spleen",)), WHOLE)
    output[1].square().sum().backward()
    assert gradients(net, "encoders.spleen.0")["encoders.spleen.0.0.weight"].any()


def test_a_mixed_batch_has_the_gradients_of_its_cases():
    net = network()
    (output,) = net.train_pass(image(), labelled(("liver",), ("spleen",)), WHOLE)
    output.square().sum().backward()
    mixed = gradients(net, "encoders.liver")
    (alone,) = net.train_pass(image()[:1], labelled(("liver",)), WHOLE)
    alone.square().sum().backward()
    expected = gradients(net, "encoders.liver")
    # A bias before an instance normalisation has no influence: its gradient is rounding.
    for name, gradient in ((name, value) for name, value in mixed.items() if name.endswith("weight")):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3 * float(expected[name].abs().max()))


def test_the_second_pass_reaches_the_agd_and_the_encoders_of_annotated_organs():
    net = network()
    outputs = net.train_pass(image(), labelled(("liver",), ("spleen", "liver")), AUXILIARY)
    sum(output.logits.square().sum() for output in outputs).backward()
    assert moved(net) == {"liver", "spleen", "agd"}


def test_the_second_pass_looks_at_the_cases_that_annotate_the_organ():
    net = network()
    liver, kidney = net.train_pass(image(), labelled(("liver", "kidney"), ("kidney_left",)), AUXILIARY)
    assert (liver.channels, liver.cases.tolist(), liver.logits.shape) == ((1,), [True, False], (1, 2, 2, 16, 16, 16))
    assert (kidney.channels, kidney.cases.tolist(), kidney.logits.shape[:2]) == ((4, 5), [True, True], (2, 2))
    (alone,) = net.train_pass(image()[:1], labelled(("liver",)), AUXILIARY)
    assert torch.equal(alone.logits, liver.logits)


def test_the_weights_of_a_part_follow_from_seed_and_name():
    before = torch.random.get_rng_state()
    state = canonical_state(network())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in canonical_state(network()).items())
    fewer = replace(SMALL, label_space=replace(SIDED_ORGANS, organs=SIDED_ORGANS.organs[1:]))
    other = canonical_state(build_network(fewer, seed=0))
    same = [name for name in other if not name.startswith("decoder.")]
    assert len(same) > 20
    assert all(torch.equal(other[name], state[name]) for name in same)
    first = {organ: state[f"encoders.{organ}.0.0.weight"] for organ in ("liver", "spleen")}
    assert not torch.equal(first["liver"], first["spleen"])
    assert not torch.equal(
        canonical_state(build_network(SMALL, seed=1))["agd.levels.0.1.weight"], state["agd.levels.0.1.weight"]
    )


def test_encoders_belong_to_classes_and_the_decoder_to_all():
    """Its output layer too: METHODS 5 averages the whole decoder by training cases."""
    state = canonical_state(network())
    assert any(name.startswith("decoder.output") for name in state)
    assert not any(has_class_rows(name) for name in state)
    owned = {name: tensor_classes(name, SIDED_ORGANS) for name in state}
    assert {owned[name] for name in state if name.startswith("encoders.kidney.")} == {("kidney_right", "kidney_left")}
    assert {owned[name] for name in state if not name.startswith("encoders.")} == {()}


@pytest.mark.parametrize("patch", [(16, 16, 18), (4, 4, 4), (6, 16, 16)])
def test_a_patch_that_cannot_be_halved_is_refused(patch):
    with pytest.raises(ConfigError) as caught:
        build_network(replace(SMALL, patch=patch), seed=0)
    assert caught.value.field == "patch"


def test_it_has_no_private_heads():
    with pytest.raises(ConfigError, match="MenuConfig"):
        build_network(SMALL, seed=0, head_classes=["liver"])
