"""Rows of scores as they come: MONAI's values, restore_logits' labels, and never more rows than the patch needs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from fedpartial.data.geometry import Grid
from fedpartial.data.preprocess import highest, prepared_grid, restore_logits
from fedpartial.inference import restoring, sliding
from fedpartial.inference.restoring import restore_rows
from fedpartial.inference.sliding import longest_axis, sliding_scores
from fedpartial.presets import PHANTOM
from fedpartial.training.evaluator import predict_logits
from fedpartial.training.precision import Precision

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
PRESET = replace(PHANTOM, patch=(12, 10, 8), overlap=0.5, inference_batch=3, spacing_mm=(1.9, 1.7, 2.2))
CLASSES = 5
IDENTITY = np.eye(4)
SHAPES = {"large": (29, 16, 11), "smaller than the patch": (9, 5, 4), "one slice": (20, 1, 15)}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Random scores that change from voxel to voxel, and at a patch's edge."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv3d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, CLASSES, 3, padding=1))
    return nn.Sequential(*layers).requires_grad_(False)


def directions() -> dict[str, np.ndarray]:
    """4x4 of all orders of the axes, some flipped; two of them oblique and one sheared besides."""
    found = {}
    for number, axes in enumerate(itertools.permutations(range(3))):
        turned = np.eye(4)
        turned[:3, :3] = np.eye(3)[:, axes] * np.array([(1, 1, 1), (-1, 1, -1), (-1, -1, 1)][number % 3])
        found[f"{axes} {number % 3}"] = turned
    for name in list(found)[1:3]:
        oblique = np.eye(4)
        oblique[:3, :3] = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix()
        found[f"oblique {name}"] = oblique @ found[name]
    shear = np.eye(4)
    shear[0, 1] = 0.2
    return {**found, "sheared": shear}


DIRECTIONS = directions()


def grid(shape, direction) -> Grid:
    affine = direction @ np.diag([1.3, 2.1, 3.0, 1.0])
    affine[:3, 3] = 5.0, -7.0, 11.0
    return Grid(shape=shape, affine=affine)


def scene(shape, direction=IDENTITY) -> tuple[Grid, Grid, np.ndarray]:
    """The file's grid, the prepared grid, and a random image on it."""
    target = grid(shape, direction)
    source = prepared_grid(target.shape, target.affine, PRESET.spacing_mm)
    return target, source, np.random.default_rng(0).normal(size=source.shape).astype(np.float32)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("shape", "batch"), [*((shape, 4) for shape in SHAPES.values()), (SHAPES["large"], 1)])
def test_the_scores_are_those_of_monais_sliding_window(network, shape, axis, batch):
    _, _, image = scene(shape)
    preset = replace(PRESET, inference_batch=batch)
    pieces = [(rows.start, rows.scores.clone()) for rows in sliding_scores(network, image, preset, CPU, axis=axis)]
    starts = np.cumsum([0, *(scores.shape[1] for _, scores in pieces)])
    assert [start for start, _ in pieces] == starts[:-1].tolist()
    found = torch.cat([scores for _, scores in pieces], dim=1).movedim(1, axis + 1)
    torch.testing.assert_close(found, predict_logits(network, image, preset, CPU), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_labels_are_those_of_the_whole_scores(network, shape, direction):
    """But for ties: a voxel may differ where its two best scores are equal to float32."""
    target, source, image = scene(shape, direction)
    full = predict_logits(network, image, PRESET, CPU)
    best = {}

    def margin(scores):
        top = scores.topk(2, dim=0).values
        return (top[0] - top[1] > 1e-5).to(torch.uint8)

    for rule in (highest, margin):
        best[rule] = restore_logits(full, source.affine, target.shape, target.affine, decide=rule)
    for axis in range(3):
        rows = sliding_scores(network, image, PRESET, CPU, axis=axis)
        found = restore_rows(rows, source, target, axis=axis, decide=highest)
        clear = best[margin] == 1
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(found[clear], best[highest][clear])
        assert found.shape == target.shape
        assert found.dtype == np.uint8


def test_masks_of_every_class_and_voxels_outside(network):
    """A target twice as large as the scores: what lies outside of them is background in every mask."""
    _, source, image = scene(SHAPES["large"])
    target = grid(tuple(2 * n for n in SHAPES["large"]), np.eye(4))
    whole = (predict_logits(network, image, PRESET, CPU), source.affine, target.shape, target.affine)
    rows = sliding_scores(network, image, PRESET, CPU, axis=1)
    found = restore_rows(rows, source, target, axis=1, decide=lambda scores: scores > -9)
    assert found.shape == (CLASSES, *target.shape)
    np.testing.assert_array_equal(found, restore_logits(*whole, decide=lambda scores: scores > -9))
    assert found.any()
    assert not found[..., -1].any()


def test_grids_that_are_not_parallel_are_right_too(network):
    _, source, image = scene(SHAPES["large"])
    target = grid((20, 21, 22), DIRECTIONS["oblique (0, 2, 1) 1"])
    full = predict_logits(network, image, PRESET, CPU)
    expected = restore_logits(full, source.affine, target.shape, target.affine)
    rows = sliding_scores(network, image, PRESET, CPU, axis=2)
    found = restore_rows(rows, source, target, axis=2, decide=highest)
    assert (found != expected).mean() < 1e-3
    assert found.any()


def test_no_more_rows_are_kept_than_the_patch_needs(network, monkeypatch):
    """60 rows of scores, a patch of 8 rows in steps of 4: two windows in a batch of one."""
    preset = replace(PRESET, inference_batch=1)
    target = Grid(shape=(12, 10, 60), affine=np.diag([*preset.spacing_mm, 1.0]))
    image = np.zeros(target.shape, dtype=np.float32)
    sums, kept = [], []
    made, take = sliding._Sums.__init__, restoring._Restoring.take
    monkeypatch.setattr(sliding._Sums, "__init__", lambda s, scores, *a: (sums.append(scores), made(s, scores, *a))[1])
    monkeypatch.setattr(restoring._Restoring, "take", lambda r, rows: (take(r, rows), kept.append(r.kept.shape[1]))[0])
    assert longest_axis(target.shape, preset.patch) == 2
    rows = sliding_scores(network, image, preset, CPU, axis=2)
    restore_rows(rows, target, target, axis=2, decide=highest)
    assert [scores.shape for scores in sums] == [(12, 10, 8, CLASSES)]
    assert max(kept) <= 3
    assert len(kept) >= 60 // sliding.ROWS_AT_ONCE


def test_progress_counts_every_window(network):
    _, _, image = scene(SHAPES["large"])
    seen = []
    for _ in sliding_scores(network, image, PRESET, CPU, axis=0, progress=lambda *done: seen.append(done)):
        pass
    total = seen[-1][1]
    assert total > 2 * PRESET.inference_batch
    assert [done for done, _ in seen] == [*range(3, total, 3), total]
    assert {all_ for _, all_ in seen} == {total}


def test_windows_come_in_monais_order_along_the_first_axis():
    """The random numbers of the uncertainty rule belong to the batches of training/evaluator.py."""
    _, _, image = scene(SHAPES["large"])
    batches: dict[str, list] = {"monai": [], "rows": []}

    class Watching(nn.Module):
        name = "monai"

        def forward(self, windows):
            batches[self.name].append(windows.clone())
            return windows

    watching = Watching()
    predict_logits(watching, image, PRESET, CPU)
    watching.name = "rows"
    for _ in sliding_scores(watching, image, PRESET, CPU, axis=0):
        pass
    assert len(batches["monai"]) > 5
    for one, other in zip(batches["monai"], batches["rows"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
