"""Parallel rays from a viewer to the surface of a smooth field, with NumPy and SciPy alone.

A ray goes as far at a time as the distance to the nearest voxel inside allows, and halves its last step (sphere
tracing: Hart, The Visual Computer 1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

LIGHT = np.array([-0.45, 0.55, 0.70])
"""Where light comes from, in the directions of the picture: right, up, towards the viewer."""
SHINE = 24
LEAST_STEP, BISECTIONS, TINY = 0.4, 6, 1e-9
"""Part of a voxel that a ray goes at least; halvings of the last step."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The picture plane: axes (3, 3) from RAS mm to (right, up, towards the viewer) mm; corner: of its first pixel."""

    axes: np.ndarray
    corner: np.ndarray
    pixel_mm: float
    shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What rays meet of one structure: mm towards the viewer (U V), -inf where they miss it, and brightness (U V)."""

    depth: np.ndarray
    diffuse: np.ndarray
    specular: np.ndarray


def cast(field: np.ndarray, affine: np.ndarray, level: float, frame: Frame) -> Sheet:
    """Where rays from the viewer first meet ``field`` (H W D) at ``level``."""
    sheet = Sheet(depth=np.full(frame.shape, -np.inf), diffuse=np.zeros(frame.shape), specular=np.zeros(frame.shape))
    to_view, origin = frame.axes @ affine[:3, :3], frame.axes @ affine[:3, 3]
    pixels = np.stack(np.meshgrid(*(np.arange(n) for n in frame.shape), indexing="ij"), axis=-1).reshape(-1, 2)
    seen = np.column_stack([frame.corner + pixels * frame.pixel_mm, np.zeros(len(pixels))])
    back = np.linalg.inv(to_view)
    start, towards = (seen - origin) @ back.T, back[:, 2]
    enter, leave = _through_box(start, towards, field.shape)
    crossing = enter > leave
    found, depth = _trace(field, affine, level, start[crossing], towards, enter[crossing], leave[crossing])
    place = tuple(pixels[crossing][found].T)
    normal = _normals(field, start[crossing][found] + depth[:, None] * towards, back)
    light = LIGHT / np.linalg.norm(LIGHT)
    half = light + np.eye(3)[2]
    half /= np.linalg.norm(half)
    sheet.depth[place] = depth
    sheet.diffuse[place] = np.clip(normal @ light, 0, 1)
    sheet.specular[place] = np.clip(normal @ half, 0, 1) ** SHINE
    return sheet


def _through_box(start: np.ndarray, towards: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For rays (N, 3) in voxels, that come from the viewer: mm at which they enter and leave the volume; a ray that
    misses it enters below where it leaves."""
    safe = np.where(np.abs(towards) < TINY, TINY, towards)
    ends = np.stack([(0 - start) / safe, (np.array(shape) - 1 - start) / safe])
    return ends.max(0).min(1), ends.min(0).max(1)


def _trace(
    field: np.ndarray, affine: np.ndarray, level: float, start: np.ndarray, towards: np.ndarray, enter, leave
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rays that meet the surface, and mm. A ray goes as far at a time as nothing can be nearer."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    free = distance_transform_edt(field < level, sampling=spacing).astype(np.float32)
    slack, least = float(np.linalg.norm(spacing)), LEAST_STEP * float(spacing.min())
    at, before = enter.copy(), enter.copy()
    rays, hits = np.arange(len(enter)), []
    while len(rays):
        points = start[rays] + at[rays, None] * towards
        distance = free[tuple(np.rint(points).astype(int).T)]
        close = distance < slack
        inside = np.zeros(len(rays), dtype=bool)
        inside[close] = _at(field, points[close]) >= level
        hits.append(rays[inside])
        rays, distance = rays[~inside], distance[~inside]
        before[rays] = at[rays]
        at[rays] -= np.maximum(distance - slack, least)
        rays = rays[at[rays] >= leave[rays]]
    found = np.concatenate([*hits, np.zeros(0, dtype=int)])
    return found, _bisected(field, level, start[found], towards, before[found], at[found])


def _bisected(field: np.ndarray, level: float, start: np.ndarray, towards: np.ndarray, out, into) -> np.ndarray:
    """mm of the surface between a point outside and one inside, of every ray."""
    for _ in range(BISECTIONS):
        middle = (out + into) / 2
        inside = _at(field, start + middle[:, None] * towards) >= level
        out, into = np.where(inside, out, middle), np.where(inside, middle, into)
    return (out + into) / 2


def _at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values between voxels (N,)."""
    return map_coordinates(field, points.T, order=1, mode="nearest")


def _normals(field: np.ndarray, points: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Outward unit normals (N, 3) in directions of the picture; points in voxels, back (3, 3): view mm -> voxels."""
    slopes = [_at(field, points - offset) - _at(field, points + offset) for offset in np.eye(3)]
    normal = np.stack(slopes, axis=1) @ back
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), TINY)
