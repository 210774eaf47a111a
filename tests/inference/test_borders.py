"""Labels between rows of scores: those of all interpolated scores, of which only the ones on borders are computed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedpartial.data.parallel import axes_between, resample_parallel
from fedpartial.data.preprocess import highest
from fedpartial.inference import borders
from fedpartial.inference.borders import highest_between

CHANNELS = 6


def between(axes: tuple[int, int, int], flips: tuple[int, int, int]) -> np.ndarray:
    """4x4 from indices of a finer grid, which begins and ends outside of the scores, to theirs."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, axes] * np.array([0.31, 0.55, 0.83]) * np.array(flips)
    matrix[:3, 3] = [-1.2 if sign > 0 else 8.7 for sign in (np.eye(3)[:, axes] @ np.array(flips))]
    return matrix


def scores_of(kind: str, size: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CHANNELS, *size, generator=generator)
    if kind == "noise":
        return noise
    i, j, k = torch.meshgrid(*(torch.arange(n) - n / 2 for n in size), indexing="ij")
    organ = torch.where(i**2 + j**2 + k**2 < 12, 3, 0)
    return noise * 0.1 + 5 * torch.nn.functional.one_hot(organ, CHANNELS).movedim(-1, 0)


def dense(scores: torch.Tensor, matrix: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    slabs = resample_parallel(scores, matrix, shape, axes_between(matrix, shape))
    return torch.cat([(highest(slab.values) * slab.inside).to(torch.uint8) for slab in slabs])


@pytest.mark.parametrize("kind", ["organs", "noise"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_labels_are_those_of_all_interpolated_scores(kind, axes, flips, channels_last):
    scores, shape = scores_of(kind, (9, 8, 10)), (17, 19, 15)
    if channels_last:
        scores = scores.movedim(0, -1).contiguous().movedim(-1, 0)
    matrix = between(axes, flips)
    found = torch.stack(list(highest_between(scores, matrix, shape, axes_between(matrix, shape))))
    expected = dense(scores, matrix, shape)
    assert found.dtype == torch.uint8
    assert len(expected.unique()) == (2 if kind == "organs" else CHANNELS)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_gpu_says_the_same():
    scores, matrix, shape = scores_of("organs", (9, 8, 10)), between((0, 1, 2), (1, 1, 1)), (17, 19, 15)
    found = torch.stack(list(highest_between(scores.cuda(), matrix, shape, (0, 1, 2))))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), dense(scores, matrix, shape), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(1, 8, 10), (9, 1, 1)])
def test_one_slice_of_scores_is_enough(size):
    scores, shape = scores_of("noise", size), (6, 7, 8)
    matrix = np.diag([0.2, 0.2, 0.2, 1.0])
    found = torch.stack(list(highest_between(scores, matrix, shape, (0, 1, 2))))
    torch.testing.assert_close(found, dense(scores, matrix, shape), rtol=0, atol=0)


def test_only_voxels_in_cells_on_a_border_are_interpolated(monkeypatch):
    """A plane between two halves of 8 x 8 x 8 voxels, eight times as fine: a cell is 8 of 64 voxels thick."""
    computed = []
    at = borders._at
    monkeypatch.setattr(borders, "_at", lambda *given: (computed.append(len(given[-1])), at(*given))[1])
    scores = torch.zeros(2, 8, 8, 8)
    scores[1, :, :, 4:] = 1.0
    scores[0, :, :, :4] = 1.0
    matrix = np.diag([1 / 8, 1 / 8, 1 / 8, 1.0])
    labels = torch.stack(list(highest_between(scores, matrix, (57, 57, 57), (0, 1, 2))))
    assert sum(computed) == 57 * 57 * 8
    assert labels[:, :, :28].max() == 0
    assert labels[:, :, 29:].min() == 1
