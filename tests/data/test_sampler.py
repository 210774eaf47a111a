"""Batches are a function of (seed, site, step); what they show and how often; what is read for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from tiny_hospital import store_arrays

from fedpartial.data.cutting import cut_patch, cut_turned
from fedpartial.data.geometry import rotation_zoom
from fedpartial.data.sampler import PatchSampler, _rotation_zoom
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import ConfigError
from fedpartial.presets import ABDOMEN

LIVER, LIVER_TUMOR, SPLEEN = (ABDOMEN.index(name) for name in ("liver", "liver_tumor", "spleen"))


def case_of(folder, number: int = 0, shape=(20, 18, 16)) -> StoredCase:
    """A liver at the far corner with one voxel of tumour; intensities count the voxels from 100 * number."""
    image = np.random.default_rng(number).normal(0, 1, shape) + 10 * number
    label = np.zeros(shape, dtype=np.uint8)
    label[-6:, -6:, -6:] = LIVER
    label[-2, -3, -4] = LIVER_TUMOR
    return store_arrays(folder / f"case{number}", image, label, ("liver", "liver_tumor"), number)


@pytest.fixture
def plain(preset):
    """Without augmentation; every patch at a foreground voxel unless a test says otherwise."""
    return replace(preset, augmentation="none", foreground_fraction=1.0)


@pytest.mark.parametrize("augmentation", ["light", "condistfl", "segviz"])
def test_a_batch_depends_on_seed_site_and_step_alone(tmp_path, preset, augmentation):
    preset = replace(preset, augmentation=augmentation)
    cases = [case_of(tmp_path, number) for number in range(3)]
    first = PatchSampler(cases, preset, seed=3, site="a")
    for step in range(7):
        first.batch(step)
    again = PatchSampler(cases, preset, seed=3, site="a").batch(7)
    for name, tensor in vars(first.batch(7)).items():
        torch.testing.assert_close(tensor, getattr(again, name), rtol=0, atol=0)
    others = [
        PatchSampler(cases, preset, seed=4, site="a").batch(7),
        PatchSampler(cases, preset, seed=3, site="b").batch(7),
        first.batch(8),
    ]
    assert not any(torch.equal(first.batch(7).image, other.image) for other in others)


def test_torch_and_numpy_global_generators_are_left_alone(tmp_path, preset):
    sampler = PatchSampler([case_of(tmp_path)], preset, seed=0, site="a")
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    sampler.batch(0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_shapes_types_and_masks(tmp_path, plain):
    preset = replace(plain, volumes_per_batch=2, patches_per_volume=3, patch=(8, 6, 4))
    other = store_arrays(tmp_path / "other", np.zeros((9, 9, 9)), np.zeros((9, 9, 9), np.uint8), ("spleen",), 1)
    batch = PatchSampler([case_of(tmp_path), other], preset, seed=0, site="a").batch(0)
    assert batch.image.shape == (6, 1, 8, 6, 4)
    assert batch.label.shape == (6, 8, 6, 4)
    assert (batch.image.dtype, batch.label.dtype, batch.labelled.dtype) == (torch.float32, torch.uint8, torch.bool)
    masks = [tuple(ABDOMEN.names(mask.numpy())) for mask in batch.labelled]
    assert sorted(masks) == 3 * [("liver", "liver_tumor")] + 3 * [("spleen",)]
    assert masks[0] == masks[1] == masks[2]
    for mask, label in zip(masks, batch.label, strict=True):
        assert set(label.unique().tolist()) <= ({0, LIVER, LIVER_TUMOR} if "liver" in mask else {0})
    assert batch.to("cpu").image.shape == batch.image.shape


def test_every_case_is_seen_equally_often(tmp_path, plain):
    cases = [case_of(tmp_path, number) for number in range(5)]
    sampler = PatchSampler(cases, replace(plain, volumes_per_batch=2), seed=0, site="a")
    seen = [case.index for step in range(50) for case in sampler._volumes(step)]
    epochs = [seen[start : start + 5] for start in range(0, 100, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10


def test_image_and_label_come_from_the_same_place(tmp_path, plain):
    label = np.random.default_rng(0).choice(np.array([0, LIVER], np.uint8), (20, 18, 16))
    case = store_arrays(tmp_path / "case", label.astype(np.float32), label, ("liver",))
    batch = PatchSampler([case], plain, seed=0, site="a").batch(0)
    assert batch.label.any()
    torch.testing.assert_close(batch.image[:, 0], batch.label.float(), rtol=0, atol=0)


def test_foreground_patches_contain_their_voxel_away_from_the_centre_too(tmp_path, plain):
    """The tumour is one voxel: every patch drawn for it has it, at many places in the patch."""
    label = np.zeros((40, 40, 40), dtype=np.uint8)
    label[20, 21, 22] = LIVER_TUMOR
    case = store_arrays(tmp_path / "case", np.zeros(label.shape), label, ("liver", "liver_tumor"))
    sampler = PatchSampler([case], plain, seed=0, site="a")
    places = [place for step in range(50) for place in sampler.batch(step).label.nonzero()[:, 1:].tolist()]
    assert len(places) == 100
    assert all({place[axis] for place in places} == {2, 3, 4, 5, 6} for axis in range(3))


def test_the_share_of_foreground_patches_is_the_presets(tmp_path, plain):
    """One tumour voxel in a large volume is practically never met by chance."""
    label = np.zeros((60, 60, 60), dtype=np.uint8)
    label[30, 30, 30] = LIVER_TUMOR
    case = store_arrays(tmp_path / "case", np.zeros(label.shape), label, ("liver", "liver_tumor"))
    sampler = PatchSampler([case], replace(plain, foreground_fraction=2 / 3), seed=0, site="a")
    hits = [bool(patch.any()) for step in range(300) for patch in sampler.batch(step).label]
    assert len(hits) == 600
    assert abs(np.mean(hits) - 2 / 3) < 0.06


def test_lesions_are_seen_as_often_as_organs_whatever_their_size(tmp_path, plain):
    """A tumour of 1 voxel beside a liver of 27,000 that no small patch can contain together."""
    label = np.zeros((60, 60, 60), dtype=np.uint8)
    label[:30, :30, :30] = LIVER
    label[50, 50, 50] = LIVER_TUMOR
    case = store_arrays(tmp_path / "case", np.zeros(label.shape), label, ("liver", "liver_tumor"))
    sampler = PatchSampler([case], plain, seed=1, site="a")
    shown = Counter(int(patch.max()) for step in range(200) for patch in sampler.batch(step).label)
    assert abs(shown[LIVER_TUMOR] / 400 - 0.5) < 0.06


def test_a_patch_leaves_the_volume_only_where_the_volume_is_smaller(tmp_path, plain):
    preset = replace(plain, patch=(8, 30, 16))
    case = case_of(tmp_path, shape=(20, 18, 16))
    sampler, places = PatchSampler([case], preset, seed=0, site="a"), set()
    for batch in map(sampler.batch, range(20)):
        for image, label in zip(batch.image, batch.label, strict=True):
            padding = (image[0] == np.float32(preset.air)).all(0).all(-1)
            assert padding.sum() == 12
            assert not label[:, padding].any()
            places.add(int((~padding).nonzero()[0]))
    assert len(places) > 5


def test_a_case_without_foreground_gives_patches_from_anywhere(tmp_path, plain):
    case = store_arrays(
        tmp_path / "empty", np.arange(1000).reshape(10, 10, 10) / 100, np.zeros((10,) * 3, np.uint8), ("liver",)
    )
    sampler = PatchSampler([case], replace(plain, patch=(4, 4, 4)), seed=0, site="a")
    assert len({float(patch[0, 0, 0, 0]) for step in range(20) for patch in sampler.batch(step).image}) > 20


def test_only_the_patch_is_read(tmp_path, plain):
    """300 MB of image on disk, and a batch from it costs next to nothing."""
    case = case_of(tmp_path)
    shape = (512, 512, 600)
    for name, dtype in (("image", np.float16), ("label", np.uint8)):
        np.lib.format.open_memmap(case.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    sampler = PatchSampler([case], replace(plain, patch=(48, 48, 32), foreground_fraction=0.0), seed=0, site="a")
    PatchSampler([case], plain, seed=0, site="a").batch(0)
    before = psutil.Process().memory_info().rss
    batch = sampler.batch(0)
    assert (psutil.Process().memory_info().rss - before) / 1e6 < 50
    assert isinstance(case.image, np.memmap)
    assert batch.image.untyped_storage().nbytes() == 2 * 48 * 48 * 32 * 4


def test_nothing_of_a_case_is_held_between_batches(tmp_path, plain):
    """So that memory, maps and file descriptors do not grow with the number of cases."""
    cases = [case_of(tmp_path, number) for number in range(6)]
    sampler = PatchSampler(cases, plain, seed=0, site="a")
    for step in range(6):
        sampler.batch(step)
    held = [psutil.Process().open_files(), *([psutil.Process().memory_maps()] if psutil.LINUX else [])]
    assert not [file.path for files in held for file in files if str(tmp_path) in file.path]


def test_no_cases_is_an_error_that_says_so(preset):
    with pytest.raises(ConfigError, match="no cases"):
        PatchSampler([], preset, seed=0, site="a")


RIGHT_ANGLE = rotation_zoom((0, 0, np.pi / 2), 1.0, (1, 1, 1))


def random_case(tmp_path, shape=(30, 30, 30)) -> StoredCase:
    label = np.random.default_rng(0).choice(np.array([0, LIVER], np.uint8), shape)
    return store_arrays(tmp_path / "random", label.astype(np.float32), label, ("liver",))


def test_a_turned_patch_without_a_turn_is_the_straight_one(tmp_path, plain):
    case, start = random_case(tmp_path), np.array([3, -2, 25])
    preset = replace(plain, patch=(9, 8, 7))
    straight, still = (
        cut_patch(case, start, preset.patch, preset.air),
        cut_turned(case, start, np.eye(3), preset.patch, preset.air),
    )
    np.testing.assert_allclose(still.image, straight.image, atol=1e-5)
    np.testing.assert_array_equal(still.label, straight.label)
    assert (straight.image[:, :2] == np.float32(preset.air)).all()


def test_a_right_angle_turns_image_and_label_together(tmp_path, plain):
    case, start = random_case(tmp_path), np.array([5, 6, 7])
    preset = replace(plain, patch=(9, 9, 9))
    straight, rotated = (
        cut_patch(case, start, preset.patch, preset.air),
        cut_turned(case, start, RIGHT_ANGLE, preset.patch, preset.air),
    )
    np.testing.assert_allclose(rotated.image, np.rot90(straight.image, -1, axes=(0, 1)), atol=1e-5)
    np.testing.assert_array_equal(rotated.label, np.rot90(straight.label, -1, axes=(0, 1)))


def test_zoom_magnifies(tmp_path, plain):
    ramp = np.broadcast_to(np.arange(40.0)[:, None, None] / 8, (40, 40, 40))
    case = store_arrays(tmp_path / "ramp", ramp, np.zeros(ramp.shape, np.uint8), ("liver",))
    patch = cut_turned(case, np.array([15, 15, 15]), rotation_zoom((0, 0, 0), 1.25, (1, 1, 2)), plain.patch, plain.air)
    np.testing.assert_allclose(np.diff(patch.image, axis=0), 1 / 8 / 1.25, atol=1e-3)
    np.testing.assert_allclose(patch.image.mean(), 18.5 / 8, atol=1e-3)


def test_rotation_is_rigid_in_mm_whatever_the_spacing(tmp_path, plain):
    """A ball in mm is an ellipsoid of voxels, and the same ellipsoid after any rotation about its centre."""
    spacing = (1.0, 1.0, 2.5)
    distance = np.linalg.norm((np.indices((41, 41, 21)).T - [20, 20, 10]) * spacing, axis=-1).T
    ball = np.where(distance < 12, LIVER, 0).astype(np.uint8)
    case = store_arrays(tmp_path / "ball", np.exp(-((distance / 8) ** 2)), ball, ("liver",))
    preset = replace(plain, patch=(41, 41, 21))
    patch = cut_turned(
        case, np.zeros(3, dtype=int), rotation_zoom((0.5, -0.4, 0.3), 1.0, spacing), preset.patch, preset.air
    )
    both = 2 * ((patch.label > 0) & (ball > 0)).sum() / ((patch.label > 0).sum() + (ball > 0).sum())
    assert both > 0.94
    near = distance < 20  # farther out the turned patch shows air
    np.testing.assert_allclose(patch.image[near], case.image[near], atol=0.05)
    assert set(np.unique(patch.label)) == {0, LIVER}


def test_the_papers_rotation_and_zoom_happen_as_often_as_they_should(plain):
    rng = np.random.default_rng(0)
    turns = [_rotation_zoom(replace(plain, augmentation="condistfl"), rng) for _ in range(2000)]
    assert abs(np.mean([turn is not None for turn in turns]) - 0.36) < 0.03
    zooms = np.array([1 / np.cbrt(np.linalg.det(turn)) for turn in turns if turn is not None])
    assert zooms.min() >= 0.7 - 1e-9
    assert zooms.max() <= 1.4 + 1e-9
    assert _rotation_zoom(replace(plain, augmentation="light"), rng) is None


def test_segviz_turns_every_patch_a_little_about_z_and_scales_each_axis(plain):
    """A turn is a rotation times a scale of each column; with the same spacing along x and y both can be read off."""
    preset, rng = replace(plain, augmentation="segviz", spacing_mm=(1.5, 1.5, 2.0)), np.random.default_rng(0)
    turns = np.stack([_rotation_zoom(preset, rng) for _ in range(500)])
    np.testing.assert_array_equal(turns[:, 2, :2], 0)
    np.testing.assert_array_equal(turns[:, :2, 2], 0)
    scales = np.linalg.norm(turns, axis=1)
    angles = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
    np.testing.assert_allclose(np.arctan2(-turns[:, 0, 1], turns[:, 1, 1]), angles, atol=1e-12)
    for values, limits in ((angles, (-np.pi / 15, np.pi / 15)), *((column, (0.9, 1.1)) for column in scales.T)):
        width = limits[1] - limits[0]
        assert limits[0] <= values.min() < limits[0] + 0.02 * width
        assert limits[1] - 0.02 * width < values.max() <= limits[1]
    assert np.abs(np.corrcoef(scales.T) - np.eye(3)).max() < 0.2, "each axis has a scale of its own"


def test_a_segviz_patch_shows_image_and_label_turned_together(tmp_path, plain):
    """The image of a block is its label: a voxel nearest to it is at least an eighth of it, others at most half."""
    label = np.zeros((40, 40, 40), dtype=np.uint8)
    label[10:30, 12:28, 8:30] = LIVER
    case = store_arrays(tmp_path / "block", label.astype(np.float32), label, ("liver",))
    preset = replace(plain, augmentation="segviz", patch=(24, 24, 24))
    batch = PatchSampler([case], preset, seed=0, site="a").batch(0)
    assert batch.label.any()
    straight = PatchSampler([case], replace(preset, augmentation="none"), seed=0, site="a").batch(0)
    assert not torch.equal(batch.label, straight.label)
    image, inside = batch.image[:, 0], batch.label == LIVER
    assert image[inside].min() >= LIVER / 8 - 1e-3
    assert image[~inside].max() <= LIVER / 2 + 1e-3
