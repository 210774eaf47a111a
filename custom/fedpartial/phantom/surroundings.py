"""Everything around the annotated organs: body wall, ribs, lungs, spine, vessels, stomach and bowel.

Patient coordinates are mm along R (the patient's right), A, S from the middle of the abdomen.
"""

from __future__ import annotations

import numpy as np

from fedpartial.phantom.shapes import Canvas, Ellipsoid, tube, varied
from fedpartial.phantom.tissue import CAVITY, T


def paint_surroundings(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a trunk without its organs; the order decides which structure is in front."""
    _trunk(canvas, rng)
    _chest(canvas, rng)
    _spine(canvas, rng)
    _vessels(canvas, rng)
    _stomach(canvas, rng)
    _bowel(canvas, rng)


def _trunk(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y, z = canvas.points
    fat = rng.uniform(0, 12)
    canvas.tissue[(x / (142 + fat)) ** 2 + (y / (101 + fat)) ** 2 <= 1] = T.SUBCUTANEOUS
    # 1 on the inside of the abdominal wall; the cavity starts in front of the back muscles.
    radius = (x / 123) ** 2 + ((y - 6) / 85) ** 2
    canvas.tissue[radius <= 1] = T.FAT
    canvas.tissue[(radius > 1) & (radius < 1.17)] = T.MUSCLE
    ribs = (radius > 1.04) & (radius < 1.13) & (z > -35) & (y < 55)
    canvas.tissue[ribs & (np.mod(z + 0.35 * y, 30.0) < 11)] = T.BONE


def _chest(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y, z = canvas.points
    dome = rng.uniform(88, 102) - 42 * (((np.abs(x) - 52) / 68) ** 2 + ((y - 14) / 66) ** 2)
    inside = (x / 121) ** 2 + ((y - 6) / 83) ** 2 < 1
    canvas.tissue[inside & (z > dome)] = T.LUNG
    canvas.paint(varied(rng, (-22, 34, 122), (52, 40, 36)), T.HEART, over=(T.LUNG, T.FAT))


def _spine(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y, z = canvas.points
    canvas.tissue[((x / 62) ** 2 + ((y + 76) / 25) ** 2 <= 1)] = T.MUSCLE
    for side in (-1, 1):
        canvas.paint(varied(rng, (side * 38, -50, -80), (18, 17, 75), shift=3), T.MUSCLE, over=(T.FAT,))
    body = ((x / 21) ** 2 + ((y + 48) / 17) ** 2) <= 1
    disc = np.mod(z + rng.uniform(0, 34), 34.0) < 7
    canvas.tissue[body] = T.BONE
    canvas.tissue[((x / 17) ** 2 + ((y + 48) / 13.5) ** 2) <= 1] = T.MARROW
    canvas.tissue[body & disc] = T.DISC
    arch = ((x / 17) ** 2 + ((y + 74) / 14) ** 2 <= 1) | ((np.abs(x) < 4.5) & (y < -80) & (y > -98) & ~disc)
    canvas.tissue[arch] = T.BONE
    canvas.tissue[(x / 11) ** 2 + ((y + 73) / 9) ** 2 <= 1] = T.CANAL


def _vessels(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y, z = canvas.points
    sway = 4 * np.sin(z / 60 + rng.uniform(0, 6))
    aorta, cava = rng.uniform(8.5, 11), rng.uniform(9.5, 12.5)
    canvas.tissue[(x + 13 + sway) ** 2 + (y + 18) ** 2 <= aorta**2] = T.AORTA
    canvas.tissue[((x - 17 + sway) / 1.25) ** 2 + (y + 18) ** 2 <= (cava / 1.1) ** 2] = T.CAVA
    top = np.array([4.0, 4, 0]) + rng.uniform(-3, 3, 3)
    canvas.paint(tube(top + np.array([(0, 0, 0), (2, 6, -40), (3, 10, -100)]), [6, 6, 5]), T.CAVA, over=CAVITY)


def _stomach(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = varied(rng, (-54, 36, 42), (40, 36, 46), shift=8, size=0.18, angle=20)
    canvas.paint(wall, T.BOWEL_WALL, over=CAVITY)
    canvas.paint(wall.shrunk(5), T.FLUID, over=(T.BOWEL_WALL,))
    # The patient lies on the back, so gas collects in front.
    bubble = Ellipsoid(centre=wall.centre + np.array([0, 0.55 * wall.radii[1], 0]), radii=wall.radii * (0.55, 0.3, 0.6))
    canvas.paint(bubble, T.GAS, over=(T.FLUID,))


def _bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    down = [(-98, -8, 10), (-101, -12, -40), (-96, -6, -110)]
    up = [(92, -2, -40), (96, -4, -70), (92, 4, -112)]
    across = [(92, 20, -36), (50, 62, -48), (0, 72, -55), (-50, 62, -40), (-96, 10, 2)]
    for path in (down, up, across):
        _loop(canvas, rng, np.array(path) + rng.uniform(-6, 6, 3), rng.uniform(15, 20), (T.STOOL, T.STOOL, T.GAS))
    for _ in range(9):
        start = rng.uniform((-70, 5, -115), (70, 55, -45))
        path = start + np.cumsum(rng.uniform(-26, 26, (4, 3)) * (1, 0.6, 0.5), axis=0)
        _loop(canvas, rng, path, rng.uniform(10, 14), (T.FLUID, T.FLUID, T.STOOL, T.GAS))


def _loop(canvas: Canvas, rng: np.random.Generator, path: np.ndarray, radius: float, contents: tuple) -> None:
    canvas.paint(tube(path, [radius] * len(path)), T.BOWEL_WALL, over=CAVITY)
    for piece in tube(path, [radius - 3.5] * len(path)):
        canvas.paint(piece, contents[rng.integers(len(contents))], over=CAVITY)
