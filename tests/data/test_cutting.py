"""Turned patches: the fast ways give what resampling every point gives, inside, at the edge and outside of a volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_hospital import store_arrays

from fedpartial.data import cutting
from fedpartial.data.cutting import cut, cut_turned
from fedpartial.data.geometry import resample, rotation_zoom
from fedpartial.data.stored_case import StoredCase

AIR, SPACING, PATCH = -3.0, (1.4, 1.4, 2.8), (37, 20, 12)
TURNS = {
    "rotated": ((0.3, -0.4, 0.5), 1.0),
    "rotated and smaller": ((0.5, 0.5, -0.5), 0.7),
    "magnified": ((0.0, 0.0, 0.0), 1.37),
    "smaller": ((0.0, 0.0, 0.0), 0.73),
    "flat": ((0.0, 0.0, 0.2), 1.13),
}
STARTS = {"inside": (12, 20, 8), "at the edge": (-6, 33, 20), "mostly outside": (41, -15, 25), "outside": (300, 0, 0)}


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> StoredCase:
    rng, shape = np.random.default_rng(0), (50, 48, 30)
    image = 4 * gaussian_filter(rng.normal(size=shape), 1)
    return store_arrays(tmp_path_factory.mktemp("store") / "case", image, (image > 0.2).astype(np.uint8), ("liver",))


def by_points(case: StoredCase, start: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole volume with a wide margin of air, resampled point by point."""
    margin = 60 if start[0] < 100 else 360
    half = (np.asarray(PATCH) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, start + half - turn @ half + margin
    found = []
    for array, outside, mode in ((case.image, AIR, "bilinear"), (case.label, 0, "nearest")):
        padded = torch.from_numpy(np.pad(array.astype(np.float32), margin, constant_values=outside))[None]
        found.append(torch.cat([slab.values[0] for slab in resample(padded, matrix, PATCH, mode)]).numpy())
    return tuple(found)


@pytest.mark.parametrize("place", STARTS)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("rows", [1, 5, 16, 64])
def test_as_point_by_point(case, monkeypatch, place, turn, rows):
    if rows != 16 and place != "at the edge":
        pytest.skip("the number of rows matters nowhere else")
    monkeypatch.setattr(cutting, "ROWS", rows)
    start, matrix = np.array(STARTS[place]), rotation_zoom(*TURNS[turn], SPACING)
    patch = cut_turned(case, start, matrix, PATCH, AIR)
    image, label = by_points(case, start, matrix)
    np.testing.assert_allclose(patch.image, image, atol=1e-3)
    assert (patch.label != label).mean() < 1e-3, "voxels as near to one as to another"
    assert (patch.image.dtype, patch.label.dtype) == (np.float32, np.uint8)
    assert (patch.image == AIR).all() == (place == "outside")
    assert label.any() == (place != "outside")


def test_a_cut_is_an_array_of_its_own(case):
    whole = cut(case.image, np.zeros(3, dtype=int), (8, 8, 8), np.float32(AIR))
    part = cut(case.image, np.array([-1, 0, 0]), (8, 8, 8), np.float32(AIR))
    assert type(whole) is type(part) is np.ndarray
    assert whole.flags.writeable
    np.testing.assert_array_equal(part[1:], whole[:-1])
    assert (part[0] == AIR).all()
