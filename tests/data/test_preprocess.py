"""Voxels end up where they are in the patient, there and back; labels stay labels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import label
from tiny_hospital import write_nifti

from fedpartial.data import geometry
from fedpartial.data.preprocess import (
    Volume,
    load_image,
    load_label,
    prepared_grid,
    preprocess_image,
    preprocess_label,
    restore_logits,
)
from fedpartial.presets import ABDOMEN, ORGANS, PHANTOM, SIDED_ORGANS

TABLE = ABDOMEN.table({1: "spleen", 4: "liver"}, where="test")
SPLEEN, LIVER = ABDOMEN.index("spleen"), ABDOMEN.index("liver")


def rotated(affine: np.ndarray) -> np.ndarray:
    """Turned by 20 degrees about S and 10 degrees about R, in mm."""
    a, b = np.deg2rad(20), np.deg2rad(10)
    about_s = np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    about_r = np.array([[1, 0, 0, 0], [0, np.cos(b), -np.sin(b), 0], [0, np.sin(b), np.cos(b), 0], [0, 0, 0, 1]])
    return about_s @ about_r @ affine


def affine_of(columns: list[tuple[int, float]], origin=(-31.0, 17.0, 250.0)) -> np.ndarray:
    """Voxel axis i runs along mm axis columns[i][0] with that many mm a voxel."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, size) in enumerate(columns):
        affine[world, axis] = size
    affine[:3, 3] = origin
    return affine


RAS = affine_of([(0, 1.7), (1, 2.1), (2, 3.3)])
LPS = affine_of([(0, -1.7), (1, -2.1), (2, 3.3)])
PERMUTED = affine_of([(2, -3.3), (0, 1.7), (1, -2.1)])
AFFINES = {"RAS": RAS, "LPS": LPS, "permuted": PERMUTED, "oblique": rotated(LPS), "oblique permuted": rotated(PERMUTED)}
FINER_AND_COARSER = {"finer": (1.0, 1.3, 1.9), "coarser": (2.6, 2.9, 4.2), "mixed": (2.5, 1.5, 3.3)}


def coordinates(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """mm (H W D 3) of every voxel centre."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ellipsoid(shape: tuple[int, ...], affine: np.ndarray, centre: np.ndarray, radii=(13.0, 15.0, 19.0)) -> np.ndarray:
    return (((coordinates(shape, affine) - centre) / radii) ** 2).sum(-1) < 1


def centroid(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return (coordinates(weights.shape, affine) * weights[..., None]).sum((0, 1, 2)) / weights.sum()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def scene(affine: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """A shape and an off-centre point (mm) inside of it."""
    shape = (28, 26, 24)
    return shape, affine[:3, :3] @ [14.2, 10.7, 11.9] + affine[:3, 3]


@pytest.mark.parametrize("spacing", FINER_AND_COARSER.values(), ids=FINER_AND_COARSER)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_blob_stays_where_it_is_in_mm(affine, spacing):
    shape, centre = scene(affine)
    blob = np.exp(-(((coordinates(shape, affine) - centre) / 6) ** 2).sum(-1)).astype(np.float32)
    preset = replace(PHANTOM, spacing_mm=spacing, window_hu=(0, 1), normalise_subtract=0, normalise_divide=1)
    prepared = preprocess_image(Volume(array=blob, affine=affine), preset)
    moved = np.linalg.norm(centroid(prepared.array, prepared.affine) - centroid(blob, affine))
    assert moved < 0.15 * min(spacing)


@pytest.mark.parametrize("spacing", FINER_AND_COARSER.values(), ids=FINER_AND_COARSER)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_label_survives_the_round_trip(affine, spacing):
    shape, centre = scene(affine)
    original = ellipsoid(shape, affine, centre)
    preset = replace(PHANTOM, spacing_mm=spacing)
    prepared = preprocess_label(Volume(array=original.astype(np.uint8), affine=affine), TABLE, preset)
    grid = prepared_grid(shape, affine, spacing)
    logits = torch.nn.functional.one_hot(torch.from_numpy(prepared).long(), 8).permute(3, 0, 1, 2).float()
    restored = restore_logits(logits, grid.affine, shape, affine)
    assert restored.dtype == np.uint8
    assert set(np.unique(restored)) == {0, SPLEEN}
    assert dice(restored == SPLEEN, original) > 0.9
    moved = centroid(restored == SPLEEN, np.eye(4)) - centroid(original, np.eye(4))
    assert np.linalg.norm(moved) < 0.5


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_the_prepared_grid_is_canonical_has_the_spacing_and_covers_the_scan(affine):
    shape, spacing = (26, 24, 22), (2.5, 1.5, 3.0)
    grid = prepared_grid(shape, affine, spacing)
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), spacing)
    assert (np.abs(grid.affine[:3, :3]).argmax(axis=0) == [0, 1, 2]).all()
    assert (np.diag(grid.affine)[:3] > 0).all()
    corners = np.array([(*c, 1) for c in itertools.product(*((-0.5, n - 0.5) for n in shape))])
    inside = np.linalg.solve(grid.affine, affine @ corners.T)[:3].T
    assert (inside >= -0.5 - 0.02).all()
    assert (inside <= np.array(grid.shape) - 0.5 + 0.02).all()


def test_a_scan_already_on_the_grid_is_only_normalised():
    rng, affine = np.random.default_rng(0), affine_of(list(enumerate(PHANTOM.spacing_mm)))
    array = rng.uniform(-200, 400, (9, 8, 7)).astype(np.float32)
    prepared = preprocess_image(Volume(array=array, affine=affine), PHANTOM)
    np.testing.assert_allclose(prepared.affine, affine)
    np.testing.assert_allclose(prepared.array, (np.clip(array, -54, 258) - 100) / 50, atol=1e-4)


def test_linear_interpolation_by_hand():
    """Voxels of 2 mm at 0 and 100 HU become four of 1 mm: the centres lie at -0.25, 0.25, 0.75 and 1.25."""
    array = np.array([0.0, 100.0], dtype=np.float32).reshape(2, 1, 1)
    preset = replace(PHANTOM, spacing_mm=(1, 2, 2), window_hu=(-1, 101), normalise_subtract=0, normalise_divide=1)
    prepared = preprocess_image(Volume(array=array, affine=np.diag([2.0, 2, 2, 1])), preset)
    np.testing.assert_allclose(prepared.array.ravel(), [0, 25, 75, 100], atol=1e-4)
    np.testing.assert_allclose(prepared.affine[:3, 3], [-0.5, 0, 0])


def test_labels_are_nearest_neighbours_and_images_are_not():
    """Between the raw values 0, 1 and 4 there is no 2: an interpolated label would invent a liver tumour."""
    rng = np.random.default_rng(1)
    raw = rng.choice([0, 1, 4], (12, 12, 12)).astype(np.int16)
    volume, preset = Volume(array=raw, affine=RAS), replace(PHANTOM, spacing_mm=(1.1, 1.2, 1.3))
    label = preprocess_label(volume, TABLE, preset)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, SPLEEN, LIVER}
    image = preprocess_image(volume, replace(preset, window_hu=(0, 4), normalise_subtract=0, normalise_divide=1)).array
    assert label.shape == image.shape
    assert np.unique(image).size > 100


def test_the_running_argmax_equals_the_plain_one():
    """On the same grid nothing is interpolated; slabs of rows do not show."""
    logits = torch.randn(8, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    restored = restore_logits(logits, RAS, (7, 6, 5), RAS)
    np.testing.assert_array_equal(restored, logits.argmax(0).numpy())
    half = restore_logits(logits.half(), RAS, (7, 6, 5), RAS)
    np.testing.assert_array_equal(half, restored)


def test_small_slabs_change_nothing(monkeypatch):
    logits = torch.randn(3, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    whole = restore_logits(logits, rotated(LPS), (20, 10, 15), LPS)
    monkeypatch.setattr("fedpartial.data.geometry.SLAB_VOXELS", 1)
    np.testing.assert_array_equal(restore_logits(logits, rotated(LPS), (20, 10, 15), LPS), whole)


def test_another_decision_is_made_after_the_interpolation(monkeypatch):
    """Scores -1 and 3 of two voxels are 0 a quarter of the way between them; what is above 0 is a class."""
    monkeypatch.setattr("fedpartial.data.geometry.SLAB_VOXELS", 1)
    scores = torch.tensor([[0.0, 0.0], [-1.0, 3.0], [3.0, -1.0]]).reshape(3, 2, 1, 1)
    to = np.diag([0.8, 2, 2, 1]), (4, 1, 1)
    masks = restore_logits(scores, np.diag([2.0, 2, 2, 1]), to[1], to[0], decide=lambda s: s > 0)
    assert masks.shape == (3, 4, 1, 1)
    assert masks.dtype == np.uint8
    assert masks[:, :, 0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]]
    label = restore_logits(scores, np.diag([2.0, 2, 2, 1]), to[1], to[0], decide=lambda s: 2 * (s[1] > 0))
    assert label[:, 0, 0].tolist() == [0, 2, 2, 2]


def test_outside_of_the_prepared_grid_is_background():
    logits = torch.zeros(2, 4, 4, 4)
    logits[1] = 1
    restored = restore_logits(logits, np.eye(4), (10, 4, 4), np.eye(4))
    assert (restored[:4] == 1).all()
    assert (restored[4:] == 0).all()
    masks = restore_logits(logits, np.eye(4), (10, 4, 4), np.eye(4), decide=lambda scores: scores > 0)
    assert masks[1, :4].all()
    assert not masks[:, 4:].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 20), (30, 2, 1)])
def test_thin_volumes(shape):
    array = np.full(shape, 50, dtype=np.float32)
    prepared = preprocess_image(Volume(array=array, affine=LPS), PHANTOM)
    assert min(prepared.array.shape) >= 1
    np.testing.assert_allclose(prepared.array, (50 - 100) / 50, rtol=1e-6)
    assert restore_logits(torch.ones(2, *prepared.array.shape), prepared.affine, shape, LPS).shape == shape


def test_files_are_read_in_hu_and_as_stored(tmp_path):
    image = load_image(write_nifti(tmp_path / "i.nii.gz", np.arange(24, dtype=">i2").reshape(2, 3, 4), LPS))
    assert image.array.dtype == np.int16
    np.testing.assert_allclose(image.affine, LPS, atol=1e-5)
    assert image.array[1, 2, 3] == 23
    label = load_label(write_nifti(tmp_path / "l.nii", np.full((2, 2, 2), 1.5, dtype=np.float32)))
    assert label.array[0, 0, 0] == 1.5


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "dtype"),
    [
        (np.uint16([0, 1024, 4095]), 1, -1024, np.int16),
        (np.uint16([0, 1024, 65535]), 1, 0, np.float32),
        (np.int16([-30000, 0, 20000]), 1, -10000, np.float32),
        (np.uint8([0, 7, 255]), 100, -1000, np.int16),
        (np.int16([-5, 0, 7]), 0.37, 2, np.float32),
        (np.float64([-0.5, 0.25, 7]), 1, 0, np.float32),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_whole_numbers_stay_whole_and_have_the_values_that_nibabel_gives(
    tmp_path, stored, slope, intercept, dtype, suffix
):
    file = nibabel.Nifti1Image(stored.reshape(3, 1, 1), LPS)
    file.header.set_slope_inter(slope, intercept)
    nibabel.save(file, tmp_path / f"i{suffix}")
    image = load_image(tmp_path / f"i{suffix}")
    assert image.array.dtype == dtype
    expected = np.asanyarray(nibabel.load(tmp_path / f"i{suffix}").dataobj, dtype=np.float32)
    np.testing.assert_array_equal(image.array, expected)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_that_come_and_go_give_the_bits_of_the_whole_array(affine, order, monkeypatch):
    """Pages of 4096 bytes are given back between slabs: rows of 1.7 pages, slabs of two rows."""
    array = np.asarray(np.random.default_rng(0).integers(-1024, 1500, (42, 41, 40)), dtype=np.int16, order=order)
    volume, preset = Volume(array=array, affine=affine), replace(PHANTOM, spacing_mm=(2.5, 1.5, 3.3))
    grid = prepared_grid(array.shape, affine, preset.spacing_mm)
    whole = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    monkeypatch.setattr(geometry, "SLAB_VOXELS", 2 * grid.shape[1] * grid.shape[2])
    slabs = geometry.resample(whole, geometry.voxel_matrix(affine, grid.affine), grid.shape, "bilinear")
    expected = np.concatenate([slab.values[0].numpy() for slab in slabs])
    np.clip(expected, *preset.window_hu, out=expected)
    expected = (expected - np.float32(preset.normalise_subtract)) / np.float32(preset.normalise_divide)
    np.testing.assert_array_equal(preprocess_image(volume, preset).array, expected)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_sides_are_told_apart_before_a_coarser_grid_joins_them(affine):
    """Two kidneys 6 mm apart on a grid of 12 mm, where they touch."""
    table = SIDED_ORGANS.table({1: "kidney"}, where="test")
    right_channel, left_channel = table.pairs[0]
    shape = (60, 60, 60)
    x = coordinates(shape, affine)[..., 0]
    centre = affine[:3, :3] @ [29.5, 29.5, 29.5] + affine[:3, 3]
    gap = centre[0] + 6  # between two columns of the coarse grid, of which one lies in the middle of the scan
    raw = (ellipsoid(shape, affine, centre, radii=(44.0, 20.0, 24.0)) & (abs(x - gap) > 3)).astype(np.uint8)
    preset = replace(PHANTOM, spacing_mm=(12.0, 12.0, 12.0), label_space=SIDED_ORGANS)
    found = preprocess_label(Volume(array=raw, affine=affine), table, preset)
    grid = prepared_grid(shape, affine, preset.spacing_mm)
    x_found = coordinates(found.shape, grid.affine)[..., 0]
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, right_channel, left_channel}
    assert x_found[found == right_channel].min() > gap > x_found[found == left_channel].max()
    assert label(found > 0, structure=np.ones((3, 3, 3)))[1] == 1


def test_labels_without_sides_are_the_same_in_a_space_that_has_some():
    """A site without kidneys: the same array, voxel for voxel, as in the space of the four organs."""
    rng = np.random.default_rng(0)
    volume = Volume(array=rng.integers(0, 2, (21, 20, 19)).astype(np.uint8), affine=AFFINES["oblique"])
    tables = [space.table({1: "pancreas"}, where="test") for space in (ORGANS, SIDED_ORGANS)]
    assert [table.pairs for table in tables] == [(), ()]
    first, second = (preprocess_label(volume, table, PHANTOM) for table in tables)
    np.testing.assert_array_equal(first, second)
    assert first.any()
