"""Surfaces: what lies in front hides what lies behind, lengths are right, and sides are where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.evaluation import surface
from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.prediction_picture import prediction_picture
from fedpartial.evaluation.rays import LIGHT, cast
from fedpartial.evaluation.surface import axis_marks, frame_around, smoothed, surface_picture
from fedpartial.presets import ABDOMEN

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SIZE = 40
LIVER, TUMOR, SPLEEN = (ABDOMEN.index(name) for name in ("liver", "liver_tumor", "spleen"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(surface, "PIXELS", 120)


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels of a ball; indices grow towards right, front and head."""
    return sum((n - c) ** 2 for n, c in zip(np.ogrid[:SIZE, :SIZE, :SIZE], centre, strict=True)) <= radius**2


def shares(label: np.ndarray) -> dict[str, np.ndarray]:
    """Where the picture has the hue of a class: (rows, columns) of every such pixel."""
    picture = surface_picture(label, affine=AFFINE, space=ABDOMEN)
    names = ("liver", "liver_tumor", "spleen")
    hues = np.stack([np.frombuffer(bytes.fromhex(colour(name)[1:]), np.uint8) / 255.0 for name in names])
    unit = picture / np.linalg.norm(picture, axis=2, keepdims=True)
    nearest = (unit @ (hues / np.linalg.norm(hues, axis=1, keepdims=True)).T).argmax(2)
    seen = picture.max(2) > 0.2
    return {name: np.argwhere(seen & (nearest == number)) for number, name in enumerate(names)}


def test_sides_and_head_lie_where_a_radiologist_expects_them():
    label = np.zeros((SIZE,) * 3, dtype=np.uint8)
    label[ball((30, 20, 20), 6)] = LIVER
    label[ball((10, 20, 30), 6)] = SPLEEN
    found = shares(label)
    assert found["liver"][:, 1].mean() < found["spleen"][:, 1].mean(), "the patient's right is at the left"
    assert found["liver"][:, 0].mean() > found["spleen"][:, 0].mean(), "the head is at the top"
    marks = axis_marks()
    assert marks["R"][0] < 0 < marks["L"][0]
    assert marks["S"][1] > 0 > marks["I"][1]


def test_what_is_in_front_hides_what_is_behind():
    label = np.zeros((SIZE,) * 3, dtype=np.uint8)
    label[ball((20, 30, 20), 7)] = LIVER
    behind = np.array([20.0, 30, 20]) - 14 * surface.view_axes()[2]
    label[ball(tuple(behind), 3)] = SPLEEN
    assert len(shares(label)["spleen"]) == 0
    swapped = np.select([label == LIVER, label == SPLEEN], [SPLEEN, LIVER]).astype(np.uint8)
    assert len(shares(swapped)["spleen"]) > 100


def test_a_lesion_shines_through_its_own_organ_only():
    label = np.zeros((SIZE,) * 3, dtype=np.uint8)
    label[ball((20, 20, 20), 14)] = LIVER
    without = surface_picture(label, affine=AFFINE, space=ABDOMEN)
    label[ball((20, 20, 20), 4)] = TUMOR
    inside = surface_picture(label, affine=AFFINE, space=ABDOMEN)
    assert (np.abs(inside - without).max(2) > 0.05).mean() > 0.02
    spleen = np.where(label == LIVER, SPLEEN, label).astype(np.uint8)
    opaque = surface_picture(spleen, affine=AFFINE, space=ABDOMEN)
    alone = surface_picture(np.where(label > 0, SPLEEN, 0).astype(np.uint8), affine=AFFINE, space=ABDOMEN)
    assert (np.abs(opaque - alone).max(2) > 0.05).mean() < 0.001


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (0.9, 0.9, 5.0)])
def test_depth_and_normals_are_those_of_the_ball(spacing):
    """A ball of 30 mm: the nearest point lies one radius towards the viewer, and light falls along the radius."""
    affine = np.diag([*spacing, 1.0])
    shape = [int(90 / s) for s in spacing]
    middle = np.array([45.0, 45.0, 45.0])
    places = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"), -1)
    mask = np.linalg.norm(places - middle, axis=-1) <= 30
    frame = frame_around([tuple(slice(0, n) for n in shape)], affine)
    sheet = cast(*smoothed(mask, affine), frame)
    centre = frame.axes @ middle
    hit = np.isfinite(sheet.depth)
    u, v = hit.nonzero()
    sideways = frame.corner + np.stack([u, v], 1) * frame.pixel_mm - centre[:2]
    expected = np.sqrt(np.clip(30**2 - (sideways**2).sum(1), 0, None))
    inner = (sideways**2).sum(1) < 20**2
    assert np.abs(sheet.depth[hit] - centre[2] - expected)[inner].max() < 2.0
    assert hit.sum() * frame.pixel_mm**2 == pytest.approx(np.pi * 30**2, rel=0.05)
    normal = np.column_stack([sideways, expected]) / 30
    light = LIGHT / np.linalg.norm(LIGHT)
    assert np.abs(sheet.diffuse[hit] - np.clip(normal @ light, 0, 1))[inner].mean() < 0.05


def test_nothing_and_one_slice_are_no_failures():
    empty = np.zeros((8, 8, 8), dtype=np.uint8)
    assert surface_picture(empty, affine=AFFINE, space=ABDOMEN) is None
    flat = np.full((9, 9, 1), LIVER, dtype=np.uint8)
    assert surface_picture(flat, affine=AFFINE, space=ABDOMEN, image=np.full((9, 9, 1), 300.0)).max() > 0.3
    for label in (empty, flat):
        image = np.full(label.shape, -100, dtype=np.int16)
        assert prediction_picture(image, label, affine=AFFINE, space=ABDOMEN, title="$1").startswith(b"\x89PNG")
