"""The annotated organs and their tumours.

Patient coordinates are mm along R (the patient's right), A, S from the middle of the abdomen. Shapes come first
and tumours last, so a tumour never hides under a neighbouring organ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedpartial.phantom.shapes import Canvas, Ellipsoid, ball, rotation, tube, varied
from fedpartial.phantom.tissue import CAVITY, T

TUMOR_RATE = 0.85
"""Share of patients who have at least one tumour in the liver; the same for pancreas and kidneys."""


def paint_organs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint liver, pancreas, spleen and kidneys into a trunk, then the tumours."""
    liver = _liver(canvas, rng)
    pancreas = _pancreas(canvas, rng)
    _spleen(canvas, rng)
    kidneys = _kidneys(canvas, rng)
    _liver_tumors(canvas, rng, liver)
    _pancreas_tumors(canvas, rng, pancreas)
    _kidney_tumors(canvas, rng, kidneys)


def _liver(canvas: Canvas, rng: np.random.Generator) -> Ellipsoid:
    right = varied(rng, (63, 12, 36), (61, 68, 78))
    # The right lobe points down and outwards, the left one crosses the midline in front of the stomach.
    right = replace(right, turn=rotation(np.array([0, np.radians(-14), 0])) @ right.turn)
    left = varied(rng, (6, 46, 52), (62, 30, 32), shift=8, size=0.15, angle=12)
    canvas.paint([right, left], T.LIVER, over=CAVITY)
    porta = right.centre + np.array([-34, -8, -14])
    for _ in range(5):
        end = right.centre + rng.uniform(-0.62, 0.62, 3) * right.radii
        bend = (porta + end) / 2 + rng.uniform(-8, 8, 3)
        canvas.paint(tube([porta, bend, end], [6, 4.5, 3]), T.HEPATIC_VEIN, over=(T.LIVER,))
    return right


def _pancreas(canvas: Canvas, rng: np.random.Generator) -> list[Ellipsoid]:
    curve = np.array([(36, 6, -36), (27, 12, -12), (8, 24, 2), (-22, 24, 8), (-48, 10, 16), (-70, -2, 26)], float)
    curve = curve * rng.uniform(0.94, 1.06, 3) + rng.uniform(-5, 5, 3) + rng.uniform(-4, 4, curve.shape)
    pieces = tube(curve, np.array([16, 15, 12.5, 13, 13, 12]) * rng.uniform(0.97, 1.06))
    # A film of fat keeps it from melting into the liver, whose HU are much the same.
    canvas.paint([piece.shrunk(-4) for piece in pieces], T.FAT, over=(T.LIVER, T.HEPATIC_VEIN))
    canvas.paint(pieces, T.PANCREAS, over=CAVITY)
    return pieces


def _spleen(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.paint(varied(rng, (-89, -20, 42), (29, 44, 48), size=0.15, angle=15), T.SPLEEN, over=(*CAVITY, T.PANCREAS))


def _kidneys(canvas: Canvas, rng: np.random.Generator) -> list[Ellipsoid]:
    kidneys = []
    for side, height in ((1, -38), (-1, -22)):
        kidney = varied(rng, (side * 64, -32, height), (29, 27, 54), angle=12)
        canvas.paint(kidney, T.KIDNEY, over=(*CAVITY, T.LIVER, T.HEPATIC_VEIN, T.SPLEEN, T.PANCREAS))
        hilum = kidney.centre + kidney.turn @ (-side * 22, 4, 0)
        canvas.paint(Ellipsoid(centre=hilum, radii=np.array([17.0, 9, 20])), T.FAT, over=(T.KIDNEY,))
        kidneys.append(kidney)
    return kidneys


def _how_many(rng: np.random.Generator, second: float) -> int:
    return int(rng.random() < TUMOR_RATE) * (1 + int(rng.random() < second))


def _tumor(rng: np.random.Generator, centre: np.ndarray, low: float, high: float) -> list[Ellipsoid]:
    """A lobulated mass: a ball between two radii (mm) with two bumps."""
    radius = rng.uniform(low, high)
    bumps = [ball(centre + _direction(rng) * 0.55 * radius, 0.6 * radius) for _ in range(2)]
    return [ball(centre, radius), *bumps]


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _liver_tumors(canvas: Canvas, rng: np.random.Generator, liver: Ellipsoid) -> None:
    for _ in range(_how_many(rng, 0.5)):
        centre = liver.centre + liver.radii * _direction(rng) * rng.uniform(0.2, 0.5)
        canvas.paint(_tumor(rng, centre, 16, 26), T.LIVER_TUMOR, over=(T.LIVER, T.HEPATIC_VEIN))


def _pancreas_tumors(canvas: Canvas, rng: np.random.Generator, pancreas: list[Ellipsoid]) -> None:
    for _ in range(_how_many(rng, 0.15)):
        centre = pancreas[int(len(pancreas) * rng.uniform(0.05, 0.85))].centre
        canvas.paint(_tumor(rng, centre, 13, 18), T.PANCREAS_TUMOR, over=(*CAVITY, T.PANCREAS))


def _kidney_tumors(canvas: Canvas, rng: np.random.Generator, kidneys: list[Ellipsoid]) -> None:
    for _ in range(_how_many(rng, 0.3)):
        kidney = kidneys[rng.integers(2)]
        # Away from the hilum, with the centre near the surface: a part bulges into the fat.
        outward = np.array([np.sign(kidney.centre[0]) * rng.uniform(0.3, 1), *rng.uniform(-1, 1, 2)])
        centre = kidney.centre + kidney.turn @ (kidney.radii * outward / np.linalg.norm(outward) * 0.75)
        canvas.paint(_tumor(rng, centre, 14, 22), T.KIDNEY_TUMOR, over=(*CAVITY, T.KIDNEY))
