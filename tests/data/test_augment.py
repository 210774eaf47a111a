"""Augmentation is deterministic, changes intensities, and moves the label only together with the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedpartial.data.augment import LEVELS, augment, condistfl_intensities
from fedpartial.data.sampler import Batch
from fedpartial.presets import ABDOMEN, SIDED_ORGANS

LEVELS_THAT_CHANGE = ("light", "condistfl", "segviz")


def batch_of(count: int = 2, shape=(10, 9, 8)) -> Batch:
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.integers(0, 8, (count, *shape)))
    image = torch.from_numpy(rng.uniform(-3, 3, (count, 1, *shape)).astype(np.float32))
    return Batch(image=image, label=label, labelled=torch.ones(count, 8, dtype=torch.bool))


@pytest.mark.parametrize("level", LEVELS)
def test_same_generator_same_batch_and_the_input_stays_as_it_was(preset, level):
    preset, batch = replace(preset, augmentation=level), batch_of()
    before = batch.image.clone()
    first, second = (augment(batch, preset, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)
    assert torch.equal(batch.image, before)
    assert type(first.image) is torch.Tensor
    assert (first.image.shape, first.image.dtype) == (batch.image.shape, torch.float32)


@pytest.mark.parametrize("level", LEVELS_THAT_CHANGE)
def test_other_generators_give_other_images(preset, level):
    preset, batch = replace(preset, augmentation=level), batch_of()
    images = [augment(batch, preset, np.random.default_rng(seed)).image for seed in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert all(torch.isfinite(image).all() for image in images)


def test_none_is_none(preset):
    batch = batch_of()
    assert augment(batch, replace(preset, augmentation="none"), np.random.default_rng(0)) is batch


def test_light_leaves_the_label_and_stays_near_the_image(preset):
    """A smooth image: noise of at most 0.1 averages out, the rest shifts by at most a few tenths."""
    batch = replace(batch_of(), image=torch.linspace(-3, 3, 10)[None, None, :, None, None].expand(2, 1, 10, 9, 8))
    for seed in range(10):
        light = augment(batch, preset, np.random.default_rng(seed))
        assert light.label is batch.label
        assert (light.image.mean((-1, -2)) - batch.image.mean((-1, -2))).abs().max() < 0.9


@pytest.mark.parametrize(("space", "count"), [(ABDOMEN, 8), (SIDED_ORGANS, 4)], ids=["organs", "right and left"])
def test_condistfl_flips_image_and_label_together(preset, monkeypatch, space, count):
    """Without its intensity part: the image that equals its label still does, in one of eight ways. Where right and
    left are classes the first axis, from right to left, stays as it is."""
    monkeypatch.setattr("fedpartial.data.augment.condistfl_intensities", lambda image, rng: image)
    preset = replace(preset, label_space=space)
    batch = batch_of()
    batch = replace(batch, image=batch.label[:, None].float())
    outcomes = set()
    for seed in range(60):
        flipped = augment(batch, replace(preset, augmentation="condistfl"), np.random.default_rng(seed))
        assert torch.equal(flipped.image[:, 0], flipped.label.float())
        ways = [tuple(a for a in range(3) if way >> a & 1) for way in range(8)]
        outcomes |= {way for way in ways if torch.equal(flipped.label[0], batch.label[0].flip(way))}
    assert len(outcomes) == count
    assert any(0 in way for way in outcomes) == (space is ABDOMEN)


def test_condistfl_keeps_the_values_of_the_label(preset):
    batch = batch_of()
    for seed in range(20):
        label = augment(batch, replace(preset, augmentation="condistfl"), np.random.default_rng(seed)).label
        assert label.dtype == torch.int64
        for ours, given in zip(label, batch.label, strict=True):
            assert torch.equal(ours.unique(return_counts=True)[1], given.unique(return_counts=True)[1])


def test_segviz_scales_and_shifts_every_patch_by_up_to_a_tenth(preset):
    """Two voxels of a patch tell its factor and its shift; every patch has its own, over the whole range."""
    image = torch.stack((torch.zeros(100, 1, 2, 2), torch.ones(100, 1, 2, 2)), dim=2)
    batch = Batch(image=image, label=torch.ones(100, 2, 2, 2), labelled=torch.ones(100, 8, dtype=torch.bool))
    augmented = augment(batch, replace(preset, augmentation="segviz"), np.random.default_rng(0))
    assert augmented.label is batch.label
    zero, one = augmented.image[:, 0, 0], augmented.image[:, 0, 1]
    shift, factor = zero[:, 0, 0], (one - zero)[:, 0, 0] - 1
    assert torch.equal(zero, shift[:, None, None].expand_as(zero))
    for values in (shift, factor):
        assert len(values.unique()) == 100
        assert -0.1 <= values.min() < -0.09
        assert 0.09 < values.max() <= 0.1 + 1e-6
    assert abs(np.corrcoef(shift, factor)[0, 1]) < 0.3


def test_condistfl_makes_each_change_as_often_and_as_strongly_as_the_paper(monkeypatch):
    """METHODS 1.5: probability, range of the drawn value, and order."""
    expected = {
        "add_noise": (0.15, 0.0, 0.1),
        "blur": (0.15, 0.5, 1.5),
        "scale": (0.15, 0.7, 1.3),
        "scale_in_range": (0.15, 0.65, 1.5),
        "lower_resolution": (0.25, 0.5, 1.0),
        "gamma": (0.15, 0.8, 1.2),
        "inverse_gamma": (0.15, 0.8, 1.2),
    }
    drawn, order = {name: [] for name in expected}, []
    for name in expected:

        def note(image, value, *rng, name=name):
            drawn[name] += np.ravel(value).tolist()
            order.append(name)
            return image

        monkeypatch.setattr(f"fedpartial.data.intensities.{name}", note)
    rng, image, calls = np.random.default_rng(0), torch.zeros(2, 2, 2), 4000
    for _ in range(calls):
        order.clear()
        condistfl_intensities(image, rng)
        assert order == [name for name in expected if name in order]
    for name, (probability, low, high) in expected.items():
        values = np.array(drawn[name])
        assert abs(len(values) / (3 if name == "blur" else 1) / calls - probability) < 0.025, name
        assert low <= values.min() < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < values.max() <= high, name
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low), name
