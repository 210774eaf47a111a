"""Which tensors and rows belong to which classes, for every network."""

from __future__ import annotations

import pytest

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.classes import has_class_rows, organ_classes, tensor_classes
from fedpartial.presets import ABDOMEN, ORGANS, get_preset

OUTPUT_LAYERS = {
    "phantom": {"output_block.conv.conv.weight", "output_block.conv.conv.bias"},
    "abdomen": {
        f"{layer}.conv.conv.{kind}"
        for layer in ("output_block", *(f"deep_supervision_heads.{i}" for i in range(3)))
        for kind in ("weight", "bias")
    },
    "phantom_segviz": {"heads.joint.1.conv.unit0.conv.weight", "heads.joint.1.conv.unit0.conv.bias"},
}


@pytest.mark.parametrize("name", OUTPUT_LAYERS)
def test_the_rows_of_the_output_layers_are_the_channels(name):
    preset = get_preset(name)
    state = canonical_state(build_network(preset, seed=0))
    found = {tensor for tensor in state if has_class_rows(tensor)}
    assert found == OUTPUT_LAYERS[name]
    assert {len(state[tensor]) for tensor in found} == {preset.label_space.num_channels}
    assert not any(tensor_classes(tensor, preset.label_space) for tensor in state)


def test_an_organ_is_its_classes():
    assert organ_classes(ABDOMEN)["kidney"] == ("kidney", "kidney_tumor")
    assert organ_classes(ORGANS)["kidney"] == ("kidney",)
    assert list(organ_classes(ABDOMEN)) == ["liver", "spleen", "pancreas", "kidney"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoders.kidney.0.0.weight", ("kidney", "kidney_tumor")),
        ("encoders.spleen.3.3.bias", ("spleen",)),
        ("heads.kidney_tumor.0.conv.weight", ("kidney_tumor",)),
        ("heads.joint.1.conv.unit0.conv.weight", ()),
        ("decoder.blocks.0.0.weight", ()),
        ("decoder.output.weight", ()),
        ("agd.blocks.0.0.weight", ()),
        ("spleen.weight", ()),
    ],
)
def test_an_encoder_belongs_to_its_organ_and_a_head_to_its_class(name, expected):
    assert tensor_classes(name, ABDOMEN) == expected
