"""Whether the slices of a series make a volume: one size, equal distances, straight above each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedpartial.data.dicom_slices import Slice
from fedpartial.data.integrity import Fault

GAP_TOLERANCE = 0.01
"""By how much a distance between slices may differ from the others: this part of it, or this many mm."""
DIRECTION_TOLERANCE = 1e-3
"""Of direction cosines, which files round."""
SIDEWAYS_TOLERANCE = 0.5
"""In pixels: how far a slice may lie beside the line along which slices follow each other."""
NAMED = 3
"""Gaps named one by one before the rest is counted."""


def stack_faults(slices: Sequence[Slice], folder: Path) -> list[Fault]:
    """Everything that keeps sorted slices from being one volume; [] where nothing does."""
    faults = _values(slices)
    if not faults:
        faults = _plane(slices) or [*_gaps(slices, folder), *_sideways(slices, folder)]
    return faults


def step_of(slices: Sequence[Slice]) -> float:
    """Distance between slices in mm; of a single one its thickness, or 0 where the file does not say it."""
    if len(slices) > 1:
        return float(np.median(np.diff(heights(slices))))
    return slices[0].thickness or 0.0


def heights(slices: Sequence[Slice]) -> np.ndarray:
    """Position (n,) of each slice along the first one's normal, mm."""
    return np.array([one.position for one in slices]) @ slices[0].normal


def _values(slices: Sequence[Slice]) -> list[Fault]:
    faults = []
    for one in slices:
        if one.photometric != "MONOCHROME2":
            remedy = "Export the images in grey values."
            faults.append(_fault(one.file, "PhotometricInterpretation", one.photometric, "MONOCHROME2", remedy))
        if one.rescale is None:
            remedy = "Export the series as CT Image Storage."
            faults.append(_fault(one.file, "RescaleSlope", "no slope and intercept", "the line to HU", remedy))
    return faults[:NAMED]


def _plane(slices: Sequence[Slice]) -> list[Fault]:
    first, remedy = slices[0], "Export the series again."
    lengths = np.linalg.norm(first.directions.reshape(2, 3), axis=1)
    if not np.allclose([*lengths, np.linalg.norm(first.normal)], 1, atol=10 * DIRECTION_TOLERANCE):
        got, expected = first.directions.tolist(), "two directions at right angles"
        return [_fault(first.file, "ImageOrientationPatient", got, expected, remedy)]
    for one in slices:
        if min(one.spacing) <= 0 or not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            expected = f"{first.spacing} mm as in {first.file.name}"
            return [_fault(one.file, "PixelSpacing", f"{one.spacing} mm", expected, remedy)]
    if step_of(slices) <= 0 and len(slices) == 1:
        return [_fault(first.file, "SliceThickness", "none", "the thickness of a single slice in mm", remedy)]
    return []


def _gaps(slices: Sequence[Slice], folder: Path) -> list[Fault]:
    """Distances that differ from the others: slices that are missing, stand twice, or are spaced unevenly."""
    gaps = np.diff(heights(slices))
    if double := [number for number, gap in enumerate(gaps) if gap < GAP_TOLERANCE]:
        one, other = slices[double[0]], slices[double[0] + 1]
        got = f"{len(double)} slice(s) where another lies, first {_name(one)} and {_name(other)}"
        remedy = "Export each phase or reconstruction as a series of its own."
        return [_fault(folder, "slices", got, "one slice at each position", remedy)]
    step = step_of(slices)
    tolerance = max(GAP_TOLERANCE * step, GAP_TOLERANCE)
    odd = [number for number, gap in enumerate(gaps) if abs(gap - step) > tolerance]
    faults = [_gap(slices[number], slices[number + 1], gaps[number], step, tolerance, folder) for number in odd[:NAMED]]
    if len(odd) > NAMED:
        got, remedy = f"{len(odd) - NAMED} further uneven distance(s)", "Export the series again."
        faults.append(_fault(folder, "slices", got, "slices at equal distances", remedy))
    return faults


def _gap(one: Slice, other: Slice, gap: float, step: float, tolerance: float, folder: Path) -> Fault:
    between = f"between {_name(one)} and {_name(other)}"
    expected = f"{step:.4g} mm between slices, as elsewhere in the series"
    missing = round(gap / step) - 1
    if missing > 0 and abs(gap - (missing + 1) * step) <= (missing + 1) * tolerance:
        got = f"{missing} slice(s) missing {between} ({gap:.4g} mm)"
        return _fault(folder, "slices", got, expected, "Copy or export the series again, with all its slices.")
    remedy = "Resample the series to equal distances (dcm2niix does) and give the NIfTI file."
    return _fault(folder, "slices", f"{gap:.4g} mm {between}", expected, remedy)


def _sideways(slices: Sequence[Slice], folder: Path) -> list[Fault]:
    """Slices beside the line of the normal: a tilted gantry shears the volume, and a moved table breaks it."""
    offsets = np.array([one.position for one in slices]) - slices[0].position
    sideways = np.linalg.norm(offsets - np.outer(offsets @ slices[0].normal, slices[0].normal), axis=1)
    worst = int(sideways.argmax())
    if sideways[worst] <= SIDEWAYS_TOLERANCE * min(slices[0].spacing):
        return []
    got = f"slices up to {sideways[worst]:.4g} mm beside each other ({_name(slices[worst])}; a tilted gantry does this)"
    remedy = "Convert the series with a correction of the tilt (dcm2niix has one) and give the NIfTI file."
    return [_fault(folder, "ImagePositionPatient", got, "slices straight above each other", remedy)]


def _name(one: Slice) -> str:
    return one.file.name if one.frame is None else f"{one.file.name} frame {one.frame + 1}"


def _fault(file: Path, field: str, got: object, expected: str, remedy: str) -> Fault:
    return Fault(file=file, field=field, got=got, expected=expected, remedy=remedy)
