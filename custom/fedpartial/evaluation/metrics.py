"""Scores of one case: Dice, surface distances in mm and leakage, for the classes the case annotates.

The confusion counts of all channels and the boxes around them come from one pass over the volumes' foreground;
distances are computed only for classes that both volumes contain, inside the box of the two structures (METHODS
section 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

import numpy as np

from fedpartial.errors import check_keys
from fedpartial.evaluation.distances import foreground_box, surface_distances
from fedpartial.labels import LabelSpace

Status = Literal["scored", "missed", "false_positive", "absent"]
EmptyClass = Literal["exclude", "zero"]
SLAB_VOXELS = 2**20


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """Scores of one case; every dict has the same keys, the labelled classes in channel order.

    dice: 2 |P and R| / (|P| + |R|), None where undefined. hd95_mm, assd_mm: None unless both volumes
    contain the class. leakage: share of the class's reference voxels that are predicted as another
    foreground class; None where the reference has none.
    """

    dice: dict[str, float | None]
    hd95_mm: dict[str, float | None]
    assd_mm: dict[str, float | None]
    status: dict[str, Status]
    leakage: dict[str, float | None]

    def __post_init__(self) -> None:
        for name in _FIELDS:
            values = getattr(self, name)
            if list(values) != list(self.status):
                raise ValueError(f"{name}: has classes {list(values)}; expected those of status {list(self.status)}")
            for key, value in values.items():
                _check_value(name, key, value)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labelled classes, in channel order."""
        return tuple(self.status)

    def to_dict(self) -> dict[str, dict]:
        """Plain values for strict JSON: undefined numbers are None, never NaN."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, dict]) -> CaseScores:
        """The inverse of ``to_dict``; refuses unknown and missing keys, NaN and unknown statuses."""
        check_keys(values, _FIELDS, _FIELDS, where="case scores")
        return cls(**{name: dict(values[name]) for name in _FIELDS})


_FIELDS = tuple(field.name for field in fields(CaseScores))


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    space: LabelSpace,
    labelled: Sequence[bool] | np.ndarray,
    empty_class: EmptyClass = "exclude",
) -> CaseScores:
    """Score one case on its own grid.

    prediction, reference: channels (H, W, D), unsigned integers below ``space.num_channels``.
    spacing_mm: voxel size along each array axis, so permuted or flipped axes need no care.
    labelled: bool (C,); only these classes are scored, whatever else is predicted.
    empty_class: the Dice of a class that is predicted but not in the reference: None or 0.0.
    """
    from scipy import ndimage

    _check_volumes(prediction, reference, spacing_mm, space, labelled, empty_class)
    num_voxels = reference.size
    prediction, reference, spacing_mm = _in_c_order(prediction, reference, spacing_mm)
    foreground = _around(foreground_box(prediction), foreground_box(reference))
    prediction, reference = prediction[foreground], reference[foreground]
    counts = _confusion(prediction, reference, space.num_channels)
    counts[0, 0] += num_voxels - reference.size
    boxes = [ndimage.find_objects(volume, space.num_channels) for volume in (prediction, reference)]
    scores: dict[str, dict] = {field: {} for field in _FIELDS}
    for name in space.names(labelled):
        channel = space.index(name)
        status = _status(counts, channel)
        hd95, assd = None, None
        if status == "scored":
            box = _around(*(found[channel - 1] for found in boxes))
            hd95, assd = surface_distances(prediction[box] == channel, reference[box] == channel, spacing_mm)
        dice, leakage = _dice(counts, channel, status, empty_class), _leakage(counts, channel)
        for field, value in zip(_FIELDS, (dice, hd95, assd, status, leakage), strict=True):
            scores[field][name] = value
    return CaseScores(**scores)


def _in_c_order(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, Sequence[float]]:
    """The same volumes with axes in the other order where they are stored so, as NIfTI files are: a pass over them
    takes a fifth of the time then."""
    if reference.flags.f_contiguous and not reference.flags.c_contiguous:
        return prediction.T, reference.T, tuple(spacing_mm)[::-1]
    return prediction, reference, spacing_mm


def _around(*boxes: tuple[slice, ...]) -> tuple[slice, ...]:
    """The smallest box around boxes, of which empty ones do not count."""
    filled = [box for box in boxes if all(side.stop > side.start for side in box)] or boxes[:1]
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*filled, strict=True))


def _confusion(prediction: np.ndarray, reference: np.ndarray, num_channels: int) -> np.ndarray:
    """Voxel counts (C, C): row = reference channel, column = predicted channel.

    Slab by slab, because bincount takes eight bytes a voxel.
    """
    kind = np.uint8 if num_channels**2 <= 256 else np.uint32
    counts = np.zeros(num_channels**2, dtype=np.int64)
    rows = max(1, SLAB_VOXELS // max(1, reference[:1].size))
    for start in range(0, len(reference), rows):
        slab = slice(start, start + rows)
        pairs = reference[slab].astype(kind) * kind(num_channels) + prediction[slab].astype(kind)
        counts += np.bincount(pairs.ravel(), minlength=counts.size)
    return counts.reshape(num_channels, num_channels)


def _status(counts: np.ndarray, channel: int) -> Status:
    present, predicted = counts[channel].any(), counts[:, channel].any()
    if present:
        return "scored" if predicted else "missed"
    return "false_positive" if predicted else "absent"


def _dice(counts: np.ndarray, channel: int, status: Status, empty_class: EmptyClass) -> float | None:
    if status == "absent":
        return None
    if status == "false_positive":
        return 0.0 if empty_class == "zero" else None
    return float(2 * counts[channel, channel] / (counts[channel].sum() + counts[:, channel].sum()))


def _leakage(counts: np.ndarray, channel: int) -> float | None:
    row = counts[channel]
    if not row.any():
        return None
    return float((row.sum() - row[0] - row[channel]) / row.sum())


def _check_value(field: str, name: str, value: object) -> None:
    if field == "status":
        if value not in get_args(Status):
            raise ValueError(f"status.{name}: got {value!r}; expected one of {', '.join(get_args(Status))}")
    elif value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{field}.{name}: got {value!r}; expected a finite number >= 0, or None where undefined")


def _check_volumes(prediction, reference, spacing_mm, space, labelled, empty_class) -> None:
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape}: expected one shape (H, W, D)")
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if volume.dtype.kind != "u" or (volume.size and volume.max() >= space.num_channels):
            raise ValueError(f"{name}: expected unsigned channels below {space.num_channels}, got {volume.dtype}")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm: got {spacing_mm!r}; expected three positive numbers")
    if len(labelled) != space.num_channels:
        raise ValueError(f"labelled: has {len(labelled)} entries; expected {space.num_channels}")
    if empty_class not in get_args(EmptyClass):
        raise ValueError(f"empty_class: got {empty_class!r}; expected one of {', '.join(get_args(EmptyClass))}")
