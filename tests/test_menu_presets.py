"""The presets of Fed-MENU against the values of METHODS 5."""

from __future__ import annotations

from statistics import median

import pytest

from fedpartial.presets import MenuConfig, get_preset

TRAINING = {"liver": 79, "kidney": 126, "pancreas": 169, "spleen": 24, "amos": 120}


def test_the_data_are_the_papers():
    menu = get_preset("menu")
    assert menu.patch == (256, 256, 32)
    assert menu.spacing_mm == (1.0, 1.0, 1.5)
    assert menu.window_hu == (-200, 400)
    assert menu.air == 0
    assert (400 - menu.normalise_subtract) / menu.normalise_divide == pytest.approx(1)
    assert menu.volumes_per_batch * menu.patches_per_volume == 4
    assert menu.network == MenuConfig(channels=(20, 40, 80, 160))


def test_the_optimisation_is_the_papers():
    optimizer = get_preset("menu").optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.01, 0.99, 3e-5)
    assert (optimizer.schedule, optimizer.clip_norm) == ("poly", None)


def test_a_round_is_an_epoch_of_the_median_site():
    menu = get_preset("menu")
    assert menu.num_rounds == 400
    assert menu.local_steps == median(TRAINING.values()) / menu.volumes_per_batch


@pytest.mark.parametrize("name", ["menu", "phantom_menu"])
def test_its_tables_compare_with_those_of_psmos(name):
    assert get_preset(name).label_space == get_preset("psmos").label_space


def test_the_phantom_is_the_phantom_with_another_network():
    menu, phantom, paper = get_preset("phantom_menu"), get_preset("phantom"), get_preset("menu")
    for kept in ("spacing_mm", "patch", "window_hu", "augmentation", "volumes_per_batch", "num_rounds"):
        assert getattr(menu, kept) == getattr(phantom, kept), kept
    psmos = get_preset("phantom_psmos")
    assert menu.num_rounds * menu.local_steps == psmos.num_rounds * psmos.local_steps
    assert menu.optimizer.schedule == paper.optimizer.schedule
    assert menu.optimizer.weight_decay == paper.optimizer.weight_decay
    assert len(menu.network.channels) == len(paper.network.channels)
