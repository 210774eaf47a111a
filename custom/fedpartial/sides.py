"""Right and left: which voxels of a paired organ belong to which side of the patient.

From connected components and where they lie along the patient's right-left axis, on the grid of the label file.
World coordinates are RAS+ (nibabel's): x grows to the patient's right, however the voxels are stored.
"""

from __future__ import annotations

import numpy as np

MIN_DISTANCE_MM = 40.0
"""Centroids of two kidneys lie 80 to 140 mm apart, those of two pieces of one kidney less than this."""
MIN_SECOND = 0.1
"""Part of the largest component's volume that the second one needs to be the other organ of the pair."""
MIN_SHARED = 0.25
"""Part of a component's volume on each side of the midline from which on it belongs to both: a horseshoe kidney."""
MIN_DIVIDED_MM = 110.0
"""Extent along the right-left axis from which on a component without a partner may be both organs: a horseshoe kidney
lies on both sides of the spine, and one kidney is less wide, however it is turned."""


def split_sides(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A paired organ -> (right, left), bool (H W D) each; together they are the mask, and they do not overlap.

    mask: bool (H W D). affine: 4x4 from its voxel indices to mm, any orientation.

    The midline is the mean of the two largest 26-connected components' centroids, where these are a pair: at least
    40 mm apart along the right-left axis, the second with a tenth of the first's volume or more. Else it is the middle
    of the scan. A component belongs to the side of its centroid; one with a quarter of its volume or more on each side
    is divided voxel by voxel. Without a pair a component narrower than 110 mm is never divided: it is one kidney in a
    scan whose middle is not the patient's, and goes to one side as a whole. Which one then depends on where the scan
    was cut. The rule is ours: the papers do not say how they name the sides.
    """
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:  # files are, and components take twice as long then
        right, left = split_sides(mask.T, affine[:, [2, 1, 0, 3]])
        return right.T, left.T
    right, left = np.zeros_like(mask, dtype=bool), np.zeros_like(mask, dtype=bool)
    box = _bounding_box(mask)
    if box is not None:
        right[box] = _right(mask[box], _x_of(affine, box), float(affine[0] @ _middle(mask.shape)))
        left[box] = mask[box] & ~right[box]
    return right, left


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around the mask's voxels, None without any; each step looks at what the one before left."""
    box: list[slice] = [slice(None)] * mask.ndim
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not found.size:
            return None
        box[axis] = slice(int(found[0]), int(found[-1]) + 1)
    return tuple(box)


def _middle(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([*((np.array(shape) - 1) / 2), 1.0])


def _x_of(affine: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """(4,): world x of voxel (i, j, k) of the box is the product with (i, j, k, 1)."""
    start = np.array([*(side.start for side in box), 1.0])
    return np.array([*affine[0, :3], affine[0] @ start])


def _right(mask: np.ndarray, x_of: np.ndarray, middle_mm: float) -> np.ndarray:
    """The voxels of ``mask`` on the patient's right, bool like it."""
    from scipy.ndimage import label

    components, _ = label(mask, structure=np.ones((3, 3, 3)))
    voxels = np.nonzero(components)
    component = components[voxels] - 1
    x = sum(indices * step for indices, step in zip(voxels, x_of, strict=False)) + x_of[3]
    is_right = _is_right(component, x, middle_mm)
    right = np.zeros_like(mask)
    right[voxels] = is_right
    return right


def _is_right(component: np.ndarray, x: np.ndarray, middle_mm: float) -> np.ndarray:
    """Bool (n,) for n voxels, each of a component (from 0) and at x mm."""
    sizes = np.bincount(component)
    centroids = np.bincount(component, weights=x) / sizes
    midline = _midline_of_pair(sizes, centroids)
    divisible = np.ones(len(sizes), dtype=bool)
    if midline is None:
        midline, divisible = middle_mm, _extents(component, x, len(sizes)) >= MIN_DIVIDED_MM
    beyond = x >= midline
    share = np.bincount(component, weights=beyond) / sizes
    shared = divisible & (np.minimum(share, 1 - share) >= MIN_SHARED)
    return np.where(shared[component], beyond, (centroids >= midline)[component])


def _midline_of_pair(sizes: np.ndarray, centroids: np.ndarray) -> float | None:
    """Where right begins between the two largest components, in mm; None where these are no pair."""
    if len(sizes) < 2:
        return None
    second, first = np.argsort(sizes, kind="stable")[-2:]
    apart = abs(centroids[first] - centroids[second])
    is_pair = apart >= MIN_DISTANCE_MM and sizes[second] >= MIN_SECOND * sizes[first]
    return float(centroids[first] + centroids[second]) / 2 if is_pair else None


def _extents(component: np.ndarray, x: np.ndarray, number: int) -> np.ndarray:
    """(number,): from the first to the last voxel centre of each component along x, in mm."""
    from scipy.ndimage import maximum, minimum

    each = np.arange(number)
    return maximum(x, component, each) - minimum(x, component, each)
