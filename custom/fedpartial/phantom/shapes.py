"""Solids in patient millimetres, and the canvas they are painted on. Later paint covers earlier paint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """centre: (3,) mm along R, A, S; radii: (3,) mm along its own axes; turn: 3x3 from these to the patient's."""

    centre: np.ndarray
    radii: np.ndarray
    turn: np.ndarray | None = None

    @property
    def reach(self) -> np.ndarray:
        """Half the size (3,) of the box that holds it, mm."""
        return self.radii if self.turn is None else np.linalg.norm(self.turn * self.radii, axis=1)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Bool (I, J, K) for patient points (3, I, J, K)."""
        scale = np.diag(1 / self.radii) @ (np.eye(3) if self.turn is None else self.turn.T)
        own = np.tensordot(scale.astype(np.float32), points - _column(self.centre), axes=1)
        return np.einsum("cijk,cijk->ijk", own, own) <= 1

    def shrunk(self, wall_mm: float) -> Ellipsoid:
        """The same solid without its outer ``wall_mm``; a negative wall is added."""
        return replace(self, radii=self.radii - wall_mm)


def ball(centre: Sequence[float], radius: float) -> Ellipsoid:
    return Ellipsoid(centre=np.asarray(centre, dtype=float), radii=np.full(3, radius))


def tube(curve: np.ndarray, radii: Sequence[float]) -> list[Ellipsoid]:
    """Balls along a smooth curve through the points ``curve`` (n, 3), radii (n,) in mm."""
    curve, radii = np.asarray(curve, dtype=float), np.asarray(radii, dtype=float)
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    # Half a radius apart, the balls' union is within 4 % of a smooth tube.
    steps = np.linspace(0, knots[-1], max(2, int(2 * knots[-1] / radii.min()) + 1))
    line = spline(knots, curve, steps)
    return [ball(centre, radius) for centre, radius in zip(line, np.interp(steps, knots, radii), strict=True)]


def spline(knots: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Catmull-Rom interpolation of values (n, d) given at knots (n,), evaluated at (m,) -> (m, d)."""
    tangents = np.gradient(values, knots, axis=0)
    left = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    width = (knots[left + 1] - knots[left])[:, None]
    t = (at - knots[left])[:, None] / width
    ends = (2 * t**3 - 3 * t**2 + 1) * values[left] + (3 * t**2 - 2 * t**3) * values[left + 1]
    return ends + width * ((t**3 - 2 * t**2 + t) * tangents[left] + (t**3 - t**2) * tangents[left + 1])


def rotation(angles: np.ndarray) -> np.ndarray:
    """3x3 rotation by angles (3,) in radians about R, then A, then S."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        step = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def varied(
    rng: np.random.Generator,
    centre: Sequence[float],
    radii: Sequence[float],
    *,
    shift: float = 5.0,
    size: float = 0.1,
    angle: float = 8.0,
) -> Ellipsoid:
    """An organ that differs between patients by up to ``shift`` mm, the fraction ``size`` and ``angle`` degrees."""
    return Ellipsoid(
        centre=np.asarray(centre) + rng.uniform(-shift, shift, 3),
        radii=np.asarray(radii) * rng.uniform(1 - size, 1 + size, 3),
        turn=rotation(np.radians(rng.uniform(-angle, angle, 3))),
    )


class Canvas:
    """A tissue map on a voxel grid together with the patient coordinates of every voxel.

    points: float32 (3, I, J, K) patient mm; to_voxel: 4x4 from patient mm to voxel indices, correct within
    ``slack_mm`` (the patient's deformation); tissue: uint8 (I, J, K).
    """

    def __init__(self, points: np.ndarray, to_voxel: np.ndarray, slack_mm: float):
        self.points, self._to_voxel, self._slack = points, to_voxel, slack_mm
        self.tissue = np.zeros(points.shape[1:], dtype=np.uint8)

    def paint(self, solids: Ellipsoid | Iterable[Ellipsoid], tissue: int, *, over: Sequence[int] | None = None) -> None:
        """Set ``tissue`` inside the union of ``solids``, where ``over`` names the tissues that may be replaced."""
        for solid in [solids] if isinstance(solids, Ellipsoid) else solids:
            window = self._window(solid.centre - solid.reach, solid.centre + solid.reach)
            inside = solid.inside(self.points[(slice(None), *window)])
            here = self.tissue[window]
            if over is not None:
                inside &= _table(over)[here]
            here[inside] = tissue

    def _window(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
        corners = np.array(list(product(*zip(low - self._slack, high + self._slack, strict=True))))
        voxels = corners @ self._to_voxel[:3, :3].T + self._to_voxel[:3, 3]
        first = np.clip(np.floor(voxels.min(axis=0)).astype(int), 0, None)
        last = np.clip(np.ceil(voxels.max(axis=0)).astype(int) + 1, 0, None)
        return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


def _table(values: Sequence[int]) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(values)] = True
    return table


def _column(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector, dtype=np.float32).reshape(3, 1, 1, 1)
