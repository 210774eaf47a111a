"""Patches of public volumes with soft targets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_federation import LEVELS, TOY, toy_volumes

from fedpartial.distillation.probability_files import STEPS, read_maps, write_maps
from fedpartial.distillation.soft_patches import SoftSampler, soft_volume
from fedpartial.errors import ConfigError

CLASSES = ("liver", "spleen", "aorta")


@pytest.fixture(scope="module")
def soft_volumes(tmp_path_factory):
    """Liver and spleen where the image is bright; nobody has looked for the aorta in the second volume."""
    root, found = tmp_path_factory.mktemp("soft"), []
    for number, case in enumerate(toy_volumes(root / "volumes")):
        image = np.asarray(case.image, dtype=np.float32)
        maps = [np.where(abs(image - level) < 0.5, 0.9, 0.02) for level in LEVELS.values()]
        write_maps(root / f"{number}.json", CLASSES, np.stack([*maps, np.full_like(image, 0.01)]).astype(np.float32))
        known = CLASSES if number == 0 else CLASSES[:2]
        found.append(soft_volume(case, {n: read_maps(root / f"{number}.json", CLASSES)[n] for n in known}, CLASSES))
    return found


def sampler(volumes, seed=3, **changes) -> SoftSampler:
    return SoftSampler(volumes, replace(TOY, **changes), seed=seed)


def same(a, b) -> bool:
    return all(torch.equal(vars(a)[name], vars(b)[name]) for name in vars(a))


def test_a_batch_has_image_soft_targets_and_says_which_classes_have_a_teacher(soft_volumes):
    batch = sampler(soft_volumes).batch(0)
    assert (batch.image.shape, batch.image.dtype) == ((2, 1, 16, 16, 16), torch.float32)
    assert (batch.target.shape, batch.target.dtype) == ((2, 3, 16, 16, 16), torch.float32)
    assert sorted(batch.has.tolist()) == [[True, True, False], [True, True, True]]
    assert set(torch.unique(batch.target[:, :2]).tolist()) <= {
        0.0,
        float(np.float32(5) / STEPS),
        float(np.float32(230) / STEPS),
    }


def test_batches_follow_from_seed_and_step(soft_volumes):
    assert same(sampler(soft_volumes).batch(7), sampler(soft_volumes).batch(7))
    assert not same(sampler(soft_volumes).batch(7), sampler(soft_volumes).batch(8))
    assert not same(sampler(soft_volumes).batch(7), sampler(soft_volumes, seed=4).batch(7))


def test_every_volume_is_seen_in_every_epoch(soft_volumes):
    seen = [sampler(soft_volumes, volumes_per_batch=1).batch(step).has[0, 2].item() for step in range(10)]
    assert all(sorted(seen[epoch : epoch + 2]) == [False, True] for epoch in range(0, 10, 2))


@pytest.mark.parametrize("augmentation", ["none", "light", "condistfl"])
def test_targets_stay_with_their_voxels(soft_volumes, augmentation):
    """The target is high where the image is bright, also after flips and changed intensities."""
    drawn = sampler(soft_volumes, augmentation=augmentation)
    for step in range(4):
        batch = drawn.batch(step)
        liver = batch.target[:, 0] > 0.5
        assert liver.any()
        assert batch.image[:, 0][liver].mean() > batch.image[:, 0][~liver].mean() + 0.5


def test_foreground_is_what_the_chosen_maps_see_and_classes_are_drawn_alike(soft_volumes):
    drawn = sampler(soft_volumes, patch=(4, 4, 4), volumes_per_batch=1, foreground_fraction=1.0)
    hits = torch.stack([drawn.batch(step).target[0].amax(dim=(1, 2, 3)) > 0.5 for step in range(200)])
    assert hits[:, :2].any(dim=1).all()
    assert not hits[:, 2].any()
    assert hits[:, 0].float().mean() == pytest.approx(0.5, abs=0.12)  # the liver has twice the spleen's voxels
    assert drawn.volumes[0].present == (0, 1)


def test_outside_of_a_volume_there_is_air_and_no_class(soft_volumes):
    batch = sampler(soft_volumes, patch=(32, 32, 32)).batch(0)
    outside = batch.image[:, 0] == TOY.air
    assert outside.any()
    assert not batch.target.transpose(0, 1)[:, outside].any()


def test_no_public_volume_is_an_error():
    with pytest.raises(ConfigError, match="public volumes"):
        SoftSampler([], TOY, seed=0)
