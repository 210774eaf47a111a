"""Slices of a volume as a radiologist looks at them, whatever the order and direction of its axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedpartial.labels import LabelSpace

BODY_HU = -400.0
PLANES = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI"))
"""Name, RAS axis across the plane, and the letters at its left, right, top and bottom edge."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One plane of a case: three pictures (rows, columns) of one size, and a pixel's (width, height) in mm."""

    name: str
    letters: str
    pixel_mm: tuple[float, float]
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        rows, columns = self.image.shape
        return columns * self.pixel_mm[0], rows * self.pixel_mm[1]


def views(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, *, affine: np.ndarray, space: LabelSpace
) -> list[View]:
    """The axial, coronal and sagittal view through the structure of interest, cropped to the body.

    image: HU (H, W, D). reference, prediction: channels (H, W, D). affine (4, 4): voxel -> RAS mm of all three.
    """
    (image, spacing), (reference, _), (prediction, _) = (to_ras(v, affine) for v in (image, reference, prediction))
    indices = slices_of_interest(reference, prediction, space)
    box = body_box(image)
    found = []
    for name, axis, letters in PLANES:
        cut = tuple(slice(None) if a == axis else box[a] for a in range(3))
        pictures = (plane(volume[cut], axis, indices[axis]) for volume in (image, reference, prediction))
        pixel = tuple(float(spacing[a]) for a in range(3) if a != axis)
        parts = dict(zip(("image", "reference", "prediction"), pictures, strict=True))
        found.append(View(name=name, letters=letters, pixel_mm=pixel, **parts))
    return found


def to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume (H, W, D) with axes towards right, anterior, superior, and its voxel size (3,) in mm."""
    from nibabel import orientations
    from nibabel.affines import voxel_sizes

    transform = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("RAS"))
    spacing = voxel_sizes(affine @ orientations.inv_ornt_aff(transform, volume.shape))
    return orientations.apply_orientation(volume, transform), spacing


def plane(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a RAS volume as a picture (rows from the top, columns from the left).

    Radiological: the patient's right is at the left of axial and coronal planes, anterior at the left of
    sagittal ones; anterior or superior is at the top.
    """
    return np.take(volume, index, axis=axis)[::-1, ::-1].T


def slices_of_interest(reference: np.ndarray, prediction: np.ndarray, space: LabelSpace) -> tuple[int, int, int]:
    """For each array axis, the slice with the largest area of the structure of interest.

    That is the largest lesion of the reference, else its largest organ, else the same of the prediction,
    else the middle of the volume.
    """
    for volume in (reference, prediction):
        for names in (space.lesions, space.classes):
            counts = {space.index(name): np.count_nonzero(volume == space.index(name)) for name in names}
            channel = max(counts, key=counts.__getitem__, default=0)
            if counts.get(channel):
                return tuple(int(area.argmax()) for area in _areas(volume == channel))
    return tuple(n // 2 for n in reference.shape)


def _areas(mask: np.ndarray) -> Iterator[np.ndarray]:
    """For each axis, the number of True voxels in each slice across it."""
    for axis in range(3):
        yield mask.sum(axis=tuple(a for a in range(3) if a != axis))


def body_box(image: np.ndarray) -> tuple[slice, ...]:
    """Box around everything denser than lung, so that air does not fill the picture; all if there is nothing."""
    found = [area.nonzero()[0] for area in _areas(image > BODY_HU)]
    return tuple(slice(int(f[0]), int(f[-1]) + 1) if len(f) else slice(None) for f in found)
