"""Encoder and decoder by the names of tensors, against the modules themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from federation import TINY, TINY_SUPERVISED
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_tensors
from fedpartial.networks.parts import ENCODERS, is_encoder
from fedpartial.presets import PRESETS, SIDED_ORGANS, MenuConfig, UNetConfig
from small_universal import SMALL

MENU = replace(TINY, name="small menu", label_space=SIDED_ORGANS, network=MenuConfig(channels=(2, 4)))
KINDS = {
    "DynUNet": TINY,
    "DynUNet with side outputs": TINY_SUPERVISED,
    "MENU-Net": MENU,
    "universal U-Net": SMALL,
    "universal SwinUNETR": PRESETS["phantom_mmds_swin"],
}
MODULES = {
    "DynUNet": ("input_block", "downsamples", "bottleneck"),
    "DynUNet with side outputs": ("input_block", "downsamples", "bottleneck"),
    "MENU-Net": ("encoders",),
    "universal U-Net": ("extractor.down",),
    "universal SwinUNETR": ("extractor.swinViT", *(f"extractor.encoder{level}" for level in (1, 2, 3, 4, 10))),
}


def identities(*modules: nn.Module) -> set[int]:
    """Of the tensors that a state holds: tables of integers (SwinUNETR) belong to none."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {id(tensor) for tensor in tensors if tensor.is_floating_point()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_the_modules_down_to_the_lowest_level(kind):
    """A tensor that DynUNet lists under two names belongs to one part, whatever its first name."""
    preset = KINDS[kind]
    network = build_network(preset, seed=0)
    tensors = canonical_tensors(network)
    named = {id(tensor) for name, tensor in tensors.items() if is_encoder(name, preset.network)}
    assert named == identities(*(network.get_submodule(name) for name in MODULES[kind]))
    assert 0 < len(named) < len(tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_tensors_have_the_same_names(kind):
    """Training freezes by the names of parameters, files and messages go by the canonical ones."""
    network = build_network(KINDS[kind], seed=0)
    assert {name for name, _ in network.named_parameters()} <= set(canonical_tensors(network))


def test_every_kind_of_network_with_parts_is_tested():
    assert {type(preset.network) for preset in KINDS.values()} == set(ENCODERS)
    assert {type(preset.network) for preset in PRESETS.values()} == {*ENCODERS, UNetConfig}


def test_a_network_whose_parts_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="a network of kind UNetConfig") as caught:
        is_encoder("trunk.weight", PRESETS["phantom_segviz"].network)
    assert caught.value.field == "preset"
    assert "NetworkConfig, MenuConfig" in caught.value.expected
