"""The organs of a label map in 3D, without OpenGL: parallel rays, the first surface they meet, shaded by its normal.

Seen from the front, slightly from above and from the patient's left. A lesion shines through its own organ; bone, where
the image is given, is a faint background. Edges of what lies behind are darkened by the difference between the depth
and its blurred self (Luft, Colditz, Deussen, SIGGRAPH 2006).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.ndimage import find_objects, gaussian_filter

from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.rays import Frame, Sheet, cast
from fedpartial.labels import LabelSpace

AZIMUTH, ELEVATION = np.deg2rad(20.0), np.deg2rad(14.0)
GRID_MM, SMOOTH_MM, SMOOTH_VOXELS = 1.5, 1.8, 0.85
"""Voxels finer than the first are averaged; masks are blurred by the second, and by that part of a voxel at least."""
PIXELS, MARGIN_MM = 640, 12.0
"""Pixels along the longer side; what stays free around the organs."""
AMBIENT, DIFFUSE, SPECULAR = 0.30, 0.72, 0.22
SEEN_THROUGH, BONE_HU, BONE_STRENGTH = 0.55, 220.0, 0.34
BONE_COLOUR, GROUND = "#d8d2c4", "#101214"
CREASE_MM, CREASE_STRENGTH, DEEPEST_MM = 5.0, 0.55, 60.0


def view_axes(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> np.ndarray:
    """(3, 3): rows are the directions right, up and towards the viewer in RAS; at (0, 0) the patient is seen from the
    front, with the right side at the left."""
    towards = np.array([-np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def axis_marks() -> dict[str, tuple[float, float]]:
    """Where the patient's right, left, front, head and feet lie in the picture: (right, up), at most 1."""
    axes = view_axes()[:2]
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return {letter: tuple(float(part) for part in axes @ direction) for letter, direction in directions.items()}


def surface_picture(
    label: np.ndarray, *, affine: np.ndarray, space: LabelSpace, image: np.ndarray | None = None
) -> np.ndarray | None:
    """RGB (rows, columns, 3) in 0..1 of channels (H W D), or None where there is none; image: HU (H W D).

    affine (4, 4): voxel -> RAS mm.
    """
    boxes = {value: box for value, box in enumerate(find_objects(label), start=1) if box is not None}
    if not boxes:
        return None
    frame = frame_around(boxes.values(), affine)
    sheets = {
        value: cast(*smoothed(label[box] == value, _moved(affine, [part.start for part in box])), frame)
        for value, box in boxes.items()
    }
    picture = _ground(frame, image, affine)
    _compose(picture, sheets, space, frame)
    return np.clip(picture, 0, 1).swapaxes(0, 1)[::-1]


def frame_around(boxes: Iterable[tuple[slice, ...]], affine: np.ndarray) -> Frame:
    """The part of the picture plane that shows all boxes of voxels."""
    axes = view_axes()
    corners = [c for box in boxes for c in itertools.product(*((part.start - 0.5, part.stop - 0.5) for part in box))]
    seen = (np.array(corners) @ affine[:3, :3].T + affine[:3, 3]) @ axes.T
    low, high = seen.min(0)[:2] - MARGIN_MM, seen.max(0)[:2] + MARGIN_MM
    pixel = float((high - low).max()) / PIXELS
    shape = tuple(int(n) for n in np.ceil((high - low) / pixel))
    return Frame(axes=axes, corner=low, pixel_mm=pixel, shape=shape)


def smoothed(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """A mask (H W D) as a smooth field with a free border, the field's affine, and the level at which its surface lies.

    What is so small that blurring nearly removes it gets a lower level, so that a small lesion is not lost.
    """
    field, affine = blocks(mask, affine, GRID_MM)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.maximum(SMOOTH_MM / spacing, SMOOTH_VOXELS)
    border = np.ceil(3 * sigma).astype(int) + 1
    field = gaussian_filter(np.pad(field, [(n, n) for n in border]), sigma, mode="constant")
    return field, _moved(affine, -border), min(0.5, float(field.max()) / 2)


def blocks(volume: np.ndarray, affine: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Means, float32, over blocks of voxels that are not longer than ``spacing_mm``, and their affine."""
    factors = np.maximum(1, spacing_mm // np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    for axis, factor in enumerate(factors):
        missing = -volume.shape[axis] % factor
        volume = np.pad(volume, [(0, missing if a == axis else 0) for a in range(3)], mode="edge")
        starts = range(factor)
        parts = [volume[(slice(None),) * axis + (slice(start, None, factor),)] for start in starts]
        volume = sum(parts[1:], start=parts[0].astype(np.float32)) / np.float32(factor)
    scale = np.diag([*factors, 1.0])
    scale[:3, 3] = (factors - 1) / 2
    return volume.astype(np.float32, copy=False), affine @ scale


def _compose(picture: np.ndarray, sheets: Mapping[int, Sheet], space: LabelSpace, frame: Frame) -> None:
    """Paint what is nearest, and lesions behind the surface of their own organ, into ``picture`` (U V 3)."""
    depths = np.stack([sheet.depth for sheet in sheets.values()])
    winner, depth = depths.argmax(0), depths.max(0)
    colours = {value: _shaded(sheet, space.channels[value]) for value, sheet in sheets.items()}
    for number, value in enumerate(sheets):
        mine = (winner == number) & np.isfinite(depth)
        picture[mine] = colours[value][mine]
    for organ, *lesions in space.organ_groups:
        for lesion in (one for one in lesions if one in sheets and organ in sheets):
            behind = (winner == list(sheets).index(organ)) & np.isfinite(sheets[lesion].depth)
            seen = colours[lesion][behind]
            picture[behind] = SEEN_THROUGH * seen + (1 - SEEN_THROUGH) * colours[organ][behind]
    picture *= _creases(depth, frame.pixel_mm)[..., None]


def _shaded(sheet: Sheet, name: str) -> np.ndarray:
    """Colours (U V 3) of a structure under the light."""
    light = (AMBIENT + DIFFUSE * sheet.diffuse)[..., None]
    return _rgb(colour(name)) * light + SPECULAR * sheet.specular[..., None]


def _creases(depth: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Brightness (U V): below 1 where something nearer is close by."""
    there = np.isfinite(depth)
    filled = np.where(there, depth, depth[there].min() if there.any() else 0.0)
    nearer = gaussian_filter(filled, CREASE_MM / pixel_mm) - filled
    return np.where(there, 1 - CREASE_STRENGTH * np.clip(nearer / DEEPEST_MM * 2, 0, 1), 1.0)


def _ground(frame: Frame, image: np.ndarray | None, affine: np.ndarray) -> np.ndarray:
    """The picture (U V 3) without organs: bone, faint, on the dark ground."""
    ground = np.broadcast_to(_rgb(GROUND), (*frame.shape, 3)).copy()
    if image is None:
        return ground
    field, affine = blocks(image, affine, 2 * GRID_MM)
    bone = cast(gaussian_filter(field, SMOOTH_VOXELS), affine, BONE_HU, frame)
    light = BONE_STRENGTH * (AMBIENT + DIFFUSE * bone.diffuse) * np.isfinite(bone.depth)
    return ground + light[..., None] * _rgb(BONE_COLOUR)


def _moved(affine: np.ndarray, first: Iterable[float]) -> np.ndarray:
    """The affine of a volume that begins at voxel ``first``."""
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, :3] @ np.array(list(first), dtype=np.float64)
    return moved


def _rgb(text: str) -> np.ndarray:
    """(3,) in 0..1 of "#bf4a30"."""
    return np.frombuffer(bytes.fromhex(text.removeprefix("#")), dtype=np.uint8) / 255
