"""Presets against the values of METHODS 1.4, 1.5 and 2, and against what every preset promises."""

import json
from dataclasses import FrozenInstanceError, replace
from math import prod
from statistics import median

import pytest

from fedpartial.errors import ConfigError
from fedpartial.presets import PRESETS, MenuConfig, NetworkConfig, Plateau, UNetConfig, get_preset

KINDS = {
    "phantom": NetworkConfig,
    "abdomen": NetworkConfig,
    "phantom_segviz": UNetConfig,
    "segviz": UNetConfig,
    "phantom_psmos": NetworkConfig,
    "psmos": NetworkConfig,
}


@pytest.fixture(params=PRESETS)
def preset(request):
    return get_preset(request.param)


def named(kind: type) -> list[str]:
    """Presets whose network is of this kind; each kind has some."""
    names = [name for name, preset in PRESETS.items() if isinstance(preset.network, kind)]
    assert len(names) >= 2
    return names


def test_the_presets_of_the_house_exist_with_their_kind_of_network():
    assert {name: type(PRESETS[name].network) for name in KINDS} == KINDS


def halvings(network, axis: int) -> int:
    """By how much a network makes an axis smaller."""
    return (
        2 ** (len(network.channels) - 1) if isinstance(network, MenuConfig) else prod(s[axis] for s in network.strides)
    )


def test_a_preset_is_found_under_its_own_name(preset):
    assert PRESETS[preset.name] is preset


def test_a_preset_cannot_be_changed(preset):
    with pytest.raises(FrozenInstanceError):
        preset.patch = (1, 1, 1)
    with pytest.raises(FrozenInstanceError):
        preset.network.strides = ()
    with pytest.raises(FrozenInstanceError):
        preset.optimizer.lr = 1.0


@pytest.mark.parametrize("name", named(NetworkConfig))
def test_a_dynunet_has_one_entry_per_level_and_more_levels_than_heads(name):
    network = get_preset(name).network
    assert len(network.kernels) == len(network.strides) == len(network.filters)
    assert 0 <= network.deep_supervision_heads < len(network.filters) - 1
    assert network.num_outputs == 1 + network.deep_supervision_heads
    assert network.strides[0] == (1, 1, 1), "the first level keeps full resolution"


@pytest.mark.parametrize("name", named(UNetConfig))
def test_a_residual_unet_has_five_levels_two_residual_units_and_one_output(name):
    network = get_preset(name).network
    assert len(network.channels) == len(network.strides) + 1 == 5
    assert network.strides == ((2, 2, 2),) * 4
    assert network.num_res_units == 2
    assert network.num_outputs == 1


def test_the_patch_can_be_halved_as_often_as_the_network_does(preset):
    for axis, size in enumerate(preset.patch):
        assert size % halvings(preset.network, axis) == 0


def test_values_are_physically_possible(preset):
    assert preset.window_hu[0] < preset.window_hu[1]
    assert preset.normalise_divide > 0
    assert all(step > 0 for step in preset.spacing_mm)
    assert 0 <= preset.overlap < 1
    assert 0 <= preset.foreground_fraction <= 1
    assert preset.volumes_per_batch >= 1
    assert preset.patches_per_volume >= 1
    assert preset.num_rounds >= 1
    assert preset.local_steps >= 1
    assert 0 <= preset.pretrain_rounds <= preset.num_rounds
    assert preset.validate_every >= 1
    assert 0 <= preset.optimizer.momentum < 1
    assert preset.optimizer.kind == "sgd" or not preset.optimizer.momentum, "Adam would not look at it"
    assert preset.optimizer.clip_norm is None or preset.optimizer.clip_norm > 0
    assert 0 < preset.optimizer.min_lr < preset.optimizer.lr
    assert (preset.optimizer.plateau is not None) == (preset.optimizer.schedule == "plateau")
    assert 0 < preset.patch_keep_fraction < 1


def test_air_is_the_normalised_lower_end_of_the_window(preset):
    low, _ = preset.window_hu
    assert preset.air == pytest.approx((low - preset.normalise_subtract) / preset.normalise_divide)
    water = (0 - preset.normalise_subtract) / preset.normalise_divide
    assert preset.air < water - 0.25, "padding must not look like tissue (METHODS U16)"


def test_as_dict_is_json_and_tells_presets_apart():
    spaces = [get_preset(name, merge_lesions=merge) for name in PRESETS for merge in (False, True)]
    assert len({json.dumps(preset.as_dict(), sort_keys=True) for preset in spaces}) == len(set(map(repr, spaces)))
    assert all(json.loads(json.dumps(preset.as_dict()))["name"] == preset.name for preset in spaces)


def test_merged_lesions_change_the_label_space_only(preset):
    merged = get_preset(preset.name, merge_lesions=True)
    assert merged.label_space.merge_lesions
    assert merged.label_space.organs == preset.label_space.organs
    assert merged.label_space.lesions == ()
    differing = {key for key, value in merged.as_dict().items() if value != preset.as_dict()[key]}
    assert differing == (set() if preset.label_space.merge_lesions else {"label_space"})
    assert get_preset(preset.name) == preset, "the registered preset is left alone"


@pytest.mark.parametrize("name", ["Phantom", "", "nope"])
def test_an_unknown_preset_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError) as caught:
        get_preset(name)
    message = str(caught.value)
    for part in ("preset", repr(name), caught.value.expected, caught.value.remedy, *PRESETS):
        assert part in message


def test_abdomen_is_the_condistfl_paper():
    abdomen = get_preset("abdomen")
    assert abdomen.label_space.channels == (
        "background",
        "liver",
        "liver_tumor",
        "spleen",
        "pancreas",
        "pancreas_tumor",
        "kidney",
        "kidney_tumor",
    )
    assert abdomen.spacing_mm == (1.44423774, 1.44423774, 2.87368553)
    assert abdomen.window_hu == (-54, 258)
    assert (abdomen.normalise_subtract, abdomen.normalise_divide) == (100, 50)
    assert abdomen.air == pytest.approx(-3.08)
    assert abdomen.patch == (224, 224, 64)
    assert (abdomen.volumes_per_batch, abdomen.patches_per_volume) == (2, 2)
    assert abdomen.foreground_fraction == pytest.approx(2 / 3), "positive : negative = 2 : 1"
    assert abdomen.overlap == 0.5


def test_abdomen_network_is_the_condistfl_network():
    network = get_preset("abdomen").network
    assert network.kernels == ((3, 3, 1), *[(3, 3, 3)] * 5)
    assert network.strides == ((1, 1, 1), (2, 2, 1), *[(2, 2, 2)] * 4)
    assert (network.filters[0], network.filters[-1]) == (32, 320)
    assert network.deep_supervision_heads == 3
    assert network.num_outputs == 4


def test_abdomen_optimisation_is_that_of_condistfl():
    abdomen = get_preset("abdomen")
    optimizer = abdomen.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (1e-2, 0.99, 1e-5)
    assert (optimizer.min_lr, optimizer.clip_norm) == (1e-7, 1.0)
    assert (abdomen.num_rounds, abdomen.local_steps) == (120, 1000)
    assert abdomen.num_rounds * abdomen.local_steps == 120_000


def test_phantom_shares_label_space_and_intensities_with_the_paper():
    phantom, abdomen = get_preset("phantom"), get_preset("abdomen")
    assert phantom.label_space == abdomen.label_space
    assert phantom.window_hu == abdomen.window_hu
    assert phantom.air == abdomen.air


def test_segviz_is_the_papers():
    segviz = get_preset("segviz")
    assert segviz.label_space.channels == ("background", "liver", "spleen", "pancreas", "kidney")
    assert segviz.spacing_mm == (1.5, 1.5, 2.0)
    assert segviz.window_hu == (-175, 250)
    assert segviz.air == 0
    assert (250 - segviz.normalise_subtract) / segviz.normalise_divide == 1
    assert segviz.patch == (128, 128, 32)
    assert (segviz.volumes_per_batch, segviz.patches_per_volume, segviz.foreground_fraction) == (2, 4, 0.5)
    assert segviz.augmentation == "segviz"
    assert segviz.network.channels == (16, 32, 64, 128, 256)
    optimizer = segviz.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.min_lr, optimizer.betas) == ("adam", 1e-4, 1e-9, (0.9, 0.999))
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0, None)


def test_segviz_rounds_are_ten_epochs_of_the_median_site():
    """METHODS 2.2 and 2.5: 500 epochs, exchange every ten; cases of MSD and KiTS less those of validation."""
    segviz = get_preset("segviz")
    training = {"spleen": 41 - 9, "liver": 131 - 25, "pancreas": 281 - 56, "kidney": 210 - 42}
    assert segviz.num_rounds == 500 // 10
    assert segviz.local_steps == 10 * median(training.values()) / segviz.volumes_per_batch


def test_the_phantom_of_segviz_keeps_what_the_laptop_can_afford():
    phantom, paper = get_preset("phantom_segviz"), get_preset("segviz")
    for kept in ("label_space", "window_hu", "air", "foreground_fraction", "augmentation", "volumes_per_batch"):
        assert getattr(phantom, kept) == getattr(paper, kept), kept
    assert replace(phantom.optimizer, lr=paper.optimizer.lr) == paper.optimizer
    assert replace(phantom.network, channels=paper.network.channels) == paper.network
    assert phantom.cpu_threads == 1


def test_psmos_is_the_papers():
    psmos = get_preset("psmos")
    assert psmos.label_space.classes == ("liver", "spleen", "pancreas", "kidney_right", "kidney_left")
    assert psmos.spacing_mm == (1.63, 1.63, 2.41)
    assert (psmos.normalise_subtract, psmos.normalise_divide) == (90.9, 65.5)
    assert psmos.patch == (128, 160, 80), "z, y, x of the paper are S, A, R"
    assert (psmos.volumes_per_batch, psmos.patches_per_volume) == (2, 1)
    assert (psmos.patch_keep, psmos.foreground_fraction) == ("nnunet_oversample", 0.33)
    optimizer = psmos.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.01, 0.99, 3e-5)
    assert (optimizer.schedule, optimizer.clip_norm) == ("plateau", 12)
    assert optimizer.plateau == Plateau(steps=10 * 250, drop=0.001, factor=0.8)


def test_psmos_rounds_are_the_papers_pretraining_and_its_federation():
    """METHODS 3.4: 120 epochs of 250 iterations at the fully annotated site, then 2,000 rounds of 50."""
    psmos = get_preset("psmos")
    assert psmos.local_steps == 50
    assert psmos.pretrain_rounds == 120 * 250 / 50
    assert psmos.num_rounds == psmos.pretrain_rounds + 2000
    assert psmos.validate_every == 50


def test_the_patch_of_psmos_is_halved_while_eight_voxels_are_left():
    """nnU-Net's rule: an axis is halved as long as at least 4 remain, and at most five times."""
    network, patch = get_preset("psmos").network, get_preset("psmos").patch
    assert [halvings(network, axis) for axis in range(3)] == [32, 32, 16]
    for size, halved in zip(patch, (32, 32, 16), strict=True):
        assert size // halved in (4, 5)
    assert (network.filters[0], network.filters[-1], network.deep_supervision_heads) == (32, 320, 3)


def test_the_phantom_of_psmos_is_the_phantom_with_sides_and_a_plateau():
    psmos, phantom, paper = (get_preset(name) for name in ("phantom_psmos", "phantom", "psmos"))
    assert psmos.label_space == paper.label_space
    assert psmos.foreground_fraction == paper.foreground_fraction
    assert replace(psmos.optimizer.plateau, steps=2500) == paper.optimizer.plateau
    for kept in ("spacing_mm", "patch", "window_hu", "air", "network", "volumes_per_batch", "cpu_threads"):
        assert getattr(psmos, kept) == getattr(phantom, kept), kept
    assert replace(psmos.optimizer, schedule="cosine", plateau=None) == phantom.optimizer
    assert psmos.augmentation == "light", "mirrored patients have no right and left"
