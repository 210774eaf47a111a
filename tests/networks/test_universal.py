"""The universal network: its parts, classes that stand alone, and labels from outputs that include each other."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace, Organ
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.networks.canonical import canonical_state, canonical_tensors, load_canonical
from fedpartial.networks.embeddings import class_embedding
from fedpartial.networks.residual_unet import ABSENT
from fedpartial.networks.universal import START_LOGIT, build_universal, layer_sizes, universal_classes
from fedpartial.networks.universal_extractors import build_extractor, group_count
from fedpartial.presets import GREAT_VESSELS, PHANTOM, PRESETS, UniversalConfig, get_preset
from fedpartial.training.optimizer import build_optimizer
from small_universal import CLASSES, SMALL, image, small

SPACE = GREAT_VESSELS
STAGE_1 = ("spleen", "pancreas", "pancreas_tumor")
STAGE_2 = (*STAGE_1, "kidney", "kidney_tumor")
SWIN = PRESETS["phantom_mmds_swin"]


def moved_on(*classes: str) -> nn.Module:
    """A network whose weights are not those of the start: the last layer's are small there."""
    network = small(*classes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return network


def with_logits(logits: dict[str, list[float]]) -> Tensor:
    """Scores (C, V) in evaluation mode of a network whose classes have these logits in V voxels."""
    classes = [name for name in CLASSES if name in logits]
    rows = torch.tensor([logits[name] for name in classes])
    return small(*classes).eval().label_scores(rows[None, :, :, None, None])[0, :, :, 0, 0]


def labels(logits: dict[str, list[float]]) -> list[str]:
    return [SPACE.channels[channel] for channel in with_logits(logits).argmax(0)]


# --- parts --------------------------------------------------------------------------------------------


def test_a_head_of_eight_is_made_of_153_numbers():
    assert sum(layer_sizes(8)) == 153
    assert small().controller.out_features == 153


def test_the_names_of_the_tensors_say_what_they_belong_to():
    names = list(canonical_state(small(*STAGE_1)))
    parts = {name.split(".")[0] for name in names}
    assert parts == {"extractor", "summary", "reduction", "controller", "head", "embeddings"}
    assert universal_classes(names) == STAGE_1
    assert universal_classes(["trunk.0.weight", "heads.liver.0.weight"]) == ()


def test_group_counts_are_16_or_the_largest_common_divisor():
    assert [group_count(channels) for channels in (64, 512, 48, 12, 96, 7)] == [16, 16, 16, 4, 16, 1]


def test_the_u_net_extractor_has_the_published_widths():
    extractor = build_extractor(get_preset("mmds"))
    with torch.no_grad():
        deepest, full = extractor(image(16, 16, 16)[:1])
    widths = [(c.in_channels, c.out_channels) for c in extractor.down.modules() if isinstance(c, nn.Conv3d)]
    assert widths == [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    assert tuple(deepest.shape) == (1, 512, 2, 2, 2)
    assert tuple(full.shape) == (1, 64, 16, 16, 16)


@pytest.fixture(scope="module")
def swin():
    return build_network(SWIN, seed=0, head_classes=["liver"]).eval().requires_grad_(False)


def test_the_swin_extractor_computes_what_monais_network_computes(swin):
    from monai.networks.nets.swin_unetr import SwinUNETR

    norm = ("group", {"num_groups": 4})
    theirs = SwinUNETR(in_channels=1, out_channels=1, feature_size=12, window_size=4, norm_name=norm).eval()
    theirs.load_state_dict(swin.extractor.state_dict() | {f"out.{n}": t for n, t in theirs.out.state_dict().items()})
    theirs.out = nn.Identity()
    patch = image(32, 32, 32)[:1]
    with torch.no_grad():
        deepest, full = swin.extractor(patch)
        assert torch.equal(full, theirs(patch))
    assert tuple(deepest.shape) == (1, 192, 1, 1, 1), "a single voxel, which instance normalisation refuses"


def test_a_swin_network_trains_on_a_patch_of_32():
    network = build_network(SWIN, seed=0, head_classes=["liver", "liver_tumor"]).train()
    logits = network(image(32, 32, 32))
    assert tuple(logits.shape) == (2, 2, 32, 32, 32)
    logits.square().mean().backward()
    unreached = [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert unreached == []


def test_a_u_net_does_without_monai(monkeypatch):
    for name in ("monai", "monai.networks.nets.swin_unetr"):
        monkeypatch.setitem(sys.modules, name, None)
    small()(image())
    with pytest.raises(ImportError):
        build_network(SWIN, seed=0)


@pytest.mark.parametrize("name", ["phantom_mmds", "phantom_mmds_swin", "mmds"])
def test_the_presets_of_the_house_can_be_built(name):
    """Their patches and widths are checked when they are."""
    preset = get_preset(name)
    network = build_network(preset, seed=0)
    assert len(network.head_channels) == len(preset.label_space.classes)


def test_the_papers_swin_preset_can_be_built_narrower():
    preset = get_preset("mmds_swin")
    network = build_network(replace(preset, network=replace(preset.network, channels=(12,))), seed=0)
    assert network.extractor.swinViT.window_size == (7, 7, 7)


# --- start --------------------------------------------------------------------------------------------


def test_a_network_starts_the_same_whatever_classes_it_has():
    few, all_classes = (canonical_state(small(*classes, seed=3)) for classes in (STAGE_1, ()))
    shared = [name for name in few if not name.startswith("embeddings.")]
    assert set(all_classes) - set(few) == {f"embeddings.{name}" for name in CLASSES if name not in STAGE_1}
    assert len(shared) > 20
    assert all(torch.equal(few[name], all_classes[name]) for name in few)
    other = canonical_state(small(*STAGE_1, seed=4))
    assert not [name for name in shared if few[name].ndim > 1 and torch.equal(few[name], other[name])]


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    small()
    assert torch.equal(torch.rand(3), expected)


def test_training_starts_at_a_low_probability_everywhere():
    logits = build_universal(PRESETS["phantom_mmds"], seed=0).class_logits(image(32, 32, 32))
    by_class = logits.detach().flatten(2)
    assert (by_class.mean(-1) - START_LOGIT).abs().max() < 0.3
    assert by_class.std(-1).max() < 0.3
    assert 0.05 < by_class.sigmoid().mean() < 0.1


def test_a_few_steps_teach_two_classes_their_places():
    """Two cubes that differ in intensity; the vectors are all that tells one class from the other."""
    network, target = small("liver", "spleen"), torch.zeros(2, 2, 8, 8, 8)
    target[:, 0, 1:5, 1:5, 1:5] = target[:, 1, 5:8, 4:8, 4:8] = 1
    pictures = 0.3 * image() + 2 * target[:, :1] - 2 * target[:, 1:]
    optimizer = build_optimizer(dict(network.named_parameters()), replace(SMALL.optimizer, lr=0.02))
    losses = []
    for _ in range(25):
        loss = nn.functional.binary_cross_entropy_with_logits(network(pictures), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 0.5
    assert losses[-1] < 0.3 * losses[0]


# --- classes ------------------------------------------------------------------------------------------


def test_the_outputs_follow_the_label_space_whatever_order_is_asked_for():
    ordered, turned = small(*STAGE_1), small(*reversed(STAGE_1))
    assert ordered.head_channels == turned.head_channels == (3, 4, 5)
    assert torch.equal(ordered(image()), turned(image()))


@pytest.mark.parametrize("training", [True, False])
def test_a_class_added_later_leaves_the_logits_of_the_others_as_they_are_bit_for_bit(training):
    before, after = moved_on(*STAGE_1).train(training), small(*STAGE_2).train(training)
    load_canonical(after, {**canonical_state(after), **canonical_state(before)})
    first, second = before.class_logits(image()), after.class_logits(image())
    assert (first.shape[1], second.shape[1]) == (3, 5)
    columns = [after.head_channels.index(channel) for channel in before.head_channels]
    assert torch.equal(first, second[:, columns])
    assert first.std() > 0.1


def test_a_class_added_later_leaves_their_scores_too():
    before, after = moved_on(*STAGE_1).eval(), small(*STAGE_2).eval()
    load_canonical(after, {**canonical_state(after), **canonical_state(before)})
    channels = [0, *before.head_channels]
    assert torch.equal(before(image())[:, channels], after(image())[:, channels])


def test_no_tensor_changes_its_shape_with_the_classes():
    one, all_classes = canonical_state(small("liver")), canonical_state(small())
    assert {n: t.shape for n, t in one.items()} == {n: all_classes[n].shape for n in one}


def test_vectors_are_frozen_and_belong_to_the_state():
    network = small("liver")
    assert "embeddings.liver" in canonical_tensors(network)
    assert not [name for name, _ in network.named_parameters() if name.startswith("embeddings.")]
    assert np.array_equal(canonical_state(network)["embeddings.liver"], class_embedding("liver", 16))


def test_given_vectors_replace_those_of_the_names():
    given = {name: np.eye(16, dtype=np.float32)[number] for number, name in enumerate(CLASSES)}
    network = build_universal(SMALL, seed=0, classes=["spleen"], embeddings=given)
    assert np.array_equal(canonical_state(network)["embeddings.spleen"], given["spleen"])
    with pytest.raises(ConfigError, match="spleen"):
        build_universal(SMALL, seed=0, classes=["spleen"], embeddings={"liver": given["liver"]})


def test_images_of_a_batch_do_not_see_each_other():
    network, images = moved_on().eval().double(), image().double()
    torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-9, atol=1e-9)


def test_the_gradient_is_the_derivative():
    network = moved_on("liver").double()
    inputs = image(4, 4, 8)[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x), inputs, fast_mode=True)


def test_training_outputs_are_one_tensor_with_an_output_for_each_class():
    (output,) = training_outputs(small(*STAGE_1)(image()))
    assert tuple(output.shape) == (2, 3, 8, 8, 8)


# --- labels -------------------------------------------------------------------------------------------


def test_an_organ_wins_where_its_logit_is_positive():
    assert labels({"liver": [1.0, -1.0], "spleen": [-2.0, -2.0]}) == ["liver", "background"]


def test_a_lesion_wins_in_its_organ_where_its_own_logit_is_positive():
    found = labels({"liver": [5.0, 5.0, 0.1], "liver_tumor": [0.1, -0.1, 3.0]})
    assert found == ["liver_tumor", "liver", "liver_tumor"]


def test_a_lesion_outside_its_organ_stands_for_itself():
    assert labels({"liver": [-5.0, -5.0], "liver_tumor": [0.1, -0.1]}) == ["liver_tumor", "background"]


def test_another_organs_voxel_goes_to_the_higher_score():
    """Spleen 4: against tumour 2 alone, tumour 2 in a liver of 1, tumour 2 in a liver of 3."""
    logits = {"liver": [-9.0, 1.0, 3.0], "liver_tumor": [2.0, 2.0, 2.0], "spleen": [4.0, 4.0, 4.0]}
    assert labels(logits) == ["spleen", "spleen", "liver_tumor"]


def test_a_lesion_whose_organ_the_network_has_not_has_its_own_logit():
    scores = with_logits({"liver_tumor": [2.0, -1.0]})
    assert scores[SPACE.index("liver_tumor")].tolist() == [2.0, -1.0]
    assert scores[SPACE.index("liver")].tolist() == [ABSENT, ABSENT]


def test_classes_that_the_network_has_not_never_win():
    scores = with_logits({"spleen": [-50.0]})
    absent = [channel for channel in range(1, SPACE.num_channels) if channel != SPACE.index("spleen")]
    assert scores[0] == 0
    assert (scores[absent] == ABSENT).all()
    assert scores.argmax(0) == 0


def test_each_of_several_lesions_belongs_to_its_organ():
    two = LabelSpace(organs=(Organ(name="kidney", lesions=("kidney_tumor", "kidney_cyst")),))
    network = build_universal(replace(SMALL, label_space=two), seed=0).eval()
    logits = torch.tensor([3.0, -1.0, 2.0])[None, :, None, None, None]
    assert network.label_scores(logits).flatten().tolist() == [0, 3, 2, 5]


def test_evaluation_mode_is_the_scores_of_the_logits():
    network = moved_on(*STAGE_1)
    logits = network(image())
    scores = network.eval()(image())
    assert torch.equal(network.class_logits(image()), logits)
    assert torch.equal(scores, network.label_scores(logits))
    assert tuple(scores.shape) == (2, SPACE.num_channels, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(image()).dtype == torch.float32


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [[], ["liver", "liver"], ["background"], ["heart"]])
def test_classes_that_are_none_of_the_label_space_are_refused(classes):
    for build in (
        lambda: build_network(SMALL, seed=0, head_classes=classes),
        lambda: build_universal(SMALL, seed=0, classes=classes),
    ):
        with pytest.raises(ConfigError, match="different classes"):
            build()


def test_another_network_has_no_classes_of_its_own():
    with pytest.raises(ConfigError, match="UniversalConfig"):
        build_network(PHANTOM, seed=0, head_classes=["liver"])


@pytest.mark.parametrize("patch", [(8, 8, 6), (4, 4, 4)])
def test_a_patch_that_the_levels_do_not_divide_is_refused(patch):
    with pytest.raises(ConfigError, match="patch"):
        build_network(replace(SMALL, patch=patch), seed=0)


def test_swin_takes_multiples_of_32():
    with pytest.raises(ConfigError, match="multiples of 32"):
        build_network(replace(SWIN, patch=(32, 32, 48)), seed=0)


@pytest.mark.parametrize(
    ("extractor", "channels"), [("unet", (8,)), ("unet", (1, 4)), ("swin_unetr", (16,)), ("swin_unetr", (12, 24))]
)
def test_widths_that_an_extractor_cannot_have_are_refused(extractor, channels):
    config = UniversalConfig(extractor=extractor, channels=channels, embedding=4, global_features=4)
    with pytest.raises(ConfigError, match=r"network\.channels"):
        build_network(replace(SMALL, patch=(32, 32, 32), network=config), seed=0)
