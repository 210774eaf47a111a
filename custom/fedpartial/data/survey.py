"""What a data scientist wants to know about one case before training: grid, intensities, volumes, and what looks odd.

What is wrong is the integrity check's business; a remark here is no fault, and training would take the case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np

from fedpartial.data.datalist import Case
from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.integrity import Inspected, Inspector
from fedpartial.data.label_values import chunks
from fedpartial.data.preprocess import Volume, prepared_grid
from fedpartial.labels import BACKGROUND
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig

LOWEST_STORED = -32_768
AIR_HU = -500.0
SHARES = (0.005, 0.995)
LEAST_RANGE_HU = 200.0
PLAUSIBLE_EDGE_MM = (0.1, 20.0)
SAME_FORM_MM = 0.1
"""By how much the header's two affines (sform, qform) may differ at a corner without a remark."""


@dataclass(frozen=True, kw_only=True)
class CaseSurvey:
    """One case; None where its files could not be read so far.

    intensities: lowest value, percentiles 0.5 and 99.5, highest value (HU for CT). volumes_ml: class of the site file
    -> volume, of every class that the case annotates. prepared: shape (H W D) on the preset's grid. itemsize: bytes of
    a voxel as read, image and label. digest: of the image's values, the same for a copy that was compressed, mirrored
    or turned.
    """

    site: str
    case: Case
    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...]
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    intensities: tuple[float, float, float, float] | None = None
    volumes_ml: dict[str, float] | None = None
    prepared: tuple[int, int, int] | None = None
    itemsize: int = 0
    digest: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and label, or the image alone."""
        return tuple(path for path in (self.case.image, self.case.label) if path is not None)


def survey_case(case: Case, site: SiteConfig, preset: Preset) -> tuple[CaseSurvey, Inspected]:
    """Read a case once: what is wrong with it, what is in it, and its volumes. Raises ConfigError for the site file."""
    inspected = Inspector(site, preset.label_space).inspect(case)
    found: dict = {} if inspected.image is None else _of_image(inspected.image, preset)
    if inspected.label is not None:
        found["itemsize"] = found.get("itemsize", 0) + inspected.label.array.dtype.itemsize
        found["volumes_ml"] = _volumes_ml(case, site, inspected)
    survey = CaseSurvey(site=site.name, case=case, faults=tuple(inspected.faults), remarks=(), **found)
    return _with_remarks(survey, inspected, preset), inspected


def class_names(site: SiteConfig, case: Case | None = None) -> tuple[str, ...]:
    """Classes that a site, or one of its cases, annotates, in the order of the site file."""
    named = tuple(name for name in dict.fromkeys(site.labels.values()) if name != BACKGROUND)
    return named if case is None or case.labels is None else tuple(name for name in named if name in case.labels)


def _of_image(image: Volume, preset: Preset) -> dict:
    counts = _histogram(image.array)
    return {
        "shape": tuple(int(n) for n in image.array.shape),
        "spacing_mm": tuple(float(edge) for edge in nibabel.affines.voxel_sizes(image.affine)),
        "itemsize": image.array.dtype.itemsize,
        "orientation": "".join(nibabel.aff2axcodes(image.affine)),
        "intensities": _intensities(image.array, counts),
        "prepared": prepared_grid(image.array.shape, image.affine, preset.spacing_mm).shape,
        "digest": _digest(image.array.shape, counts),
    }


def _histogram(array: np.ndarray) -> np.ndarray:
    """How often each whole number from LOWEST_STORED on occurs, values rounded: (65536,). NaN counts as 0."""
    counts = np.zeros(2**16, dtype=np.int64)
    for chunk in chunks(array):
        rounded = np.clip(np.rint(np.nan_to_num(chunk)), LOWEST_STORED, -LOWEST_STORED - 1).astype(np.intp)
        counts += np.bincount(rounded - LOWEST_STORED, minlength=counts.size)
    return counts


def _intensities(array: np.ndarray, counts: np.ndarray) -> tuple[float, float, float, float]:
    finite = array if np.isfinite(array).all() else array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    below = np.cumsum(counts)
    return low, *(float(np.searchsorted(below, share * array.size) + LOWEST_STORED) for share in SHARES), high


def _digest(shape: tuple[int, ...], counts: np.ndarray) -> str | None:
    """Mirrored and turned copies have one digest: published collections repeat scans in another orientation.

    None for an image of a single value, which says nothing.
    """
    if np.count_nonzero(counts) < 2:
        return None
    return hashlib.blake2b(f"{sorted(shape)}".encode() + counts.tobytes(), digest_size=16).hexdigest()


def _volumes_ml(case: Case, site: SiteConfig, inspected: Inspected) -> dict[str, float] | None:
    if inspected.counts is None:
        return None
    voxel_ml = abs(float(np.linalg.det(inspected.label.affine[:3, :3]))) / 1000
    volumes = dict.fromkeys(class_names(site, case), 0.0)
    for value, name in site.labels.items():
        if name in volumes:
            volumes[name] += inspected.counts.get(value, 0) * voxel_ml
    return volumes


def _with_remarks(survey: CaseSurvey, inspected: Inspected, preset: Preset) -> CaseSurvey:
    remarks: list[Fault] = []
    if inspected.image is not None:
        remarks += [*_grid_remarks(survey, inspected.image, preset), *_intensity_remarks(survey)]
    if survey.volumes_ml is not None and not any(survey.volumes_ml.values()):
        expected = f"voxels of {', '.join(survey.volumes_ml)}"
        why = "Right where the patient has none of it; else export the label again."
        remarks.append(data_fault(survey.case.label, "values", "no labelled voxel", expected, why, "empty label"))
    return replace(survey, remarks=tuple(remarks))


def _grid_remarks(survey: CaseSurvey, image: Volume, preset: Preset) -> Iterator[Fault]:
    path = survey.case.image
    if 1 in survey.shape:
        why = "A single slice gives a 3D network nothing to learn from: is it the whole scan?"
        yield data_fault(path, "shape", survey.shape, "more than one slice", why, "one slice")
    if any(n < p for n, p in zip(survey.prepared, preset.patch, strict=True)):
        got, expected = f"{_by(survey.prepared)} voxels at the preset's spacing", f"the patch, {_by(preset.patch)}"
        yield data_fault(path, "shape", got, expected, "Air fills the rest of every patch.", "smaller than a patch")
    if (np.abs(image.affine[:3, :3]) == np.eye(3)).all():
        why = "A header without spacing looks like this (LiTS volumes 28 to 47): compare with the scan's own."
        yield data_fault(path, "spacing", "exactly 1 x 1 x 1 mm", "the scanner's", why, "default spacing")
    low, high = PLAUSIBLE_EDGE_MM
    if not low <= min(survey.spacing_mm) <= max(survey.spacing_mm) <= high:
        got, expected = f"{_by(survey.spacing_mm)} mm", f"edges from {low:g} to {high:g} mm"
        yield data_fault(path, "spacing", got, expected, "Is the header in another unit?", "unlikely spacing")
    header = nibabel.load(path).header
    if {"sform_code", "qform_code"} <= set(header.keys()) and not (header["sform_code"] or header["qform_code"]):
        why = "Right and left are a guess: compare with the scan's own, or export it again."
        yield data_fault(path, "orientation", "none in the header", "sform or qform", why, "no orientation")
    if (distance := _forms_apart_mm(header)) > SAME_FORM_MM:
        got, why = f"up to {distance:.3g} mm apart", "The sform is used here; other programs may use the qform."
        yield data_fault(path, "sform and qform", got, "one place", why, "sform and qform differ")


def _forms_apart_mm(header: nibabel.Nifti1Header) -> float:
    """How far the header's two affines are apart, at the farthest corner; 0 where there is only one."""
    if not {"sform_code", "qform_code"} <= set(header.keys()) or not (header["sform_code"] and header["qform_code"]):
        return 0.0
    far = np.array([*header.get_data_shape()[:3], 1]) - [1, 1, 1, 0]
    apart = header.get_sform() - header.get_qform()
    corners = far * np.array([[*np.binary_repr(i, 3), 1] for i in range(8)], dtype=int)
    return float(np.nan_to_num(np.linalg.norm((corners @ apart.T)[:, :3], axis=1), nan=np.inf).max())


def _intensity_remarks(survey: CaseSurvey) -> Iterator[Fault]:
    """Remarks on an image that does not look like CT in Hounsfield units; one at most."""
    low, _, _, high = survey.intensities
    got = f"values from {low:.4g} to {high:.4g}"
    if low == high:
        why, kind = "Export the image again.", "one value only"
    elif high - low < LEAST_RANGE_HU:
        why, kind = "Normalised already, or windowed? Give the scan as it was exported.", "not in HU"
    elif low >= 0:
        why, kind = "An MR, or values without the rescale intercept (-1024)? Presets for CT expect HU.", "not in HU"
    elif low > AIR_HU:
        why, kind = "No air around or in the patient: an MR, a windowed or a cropped scan?", "no air"
    else:
        return
    yield data_fault(survey.case.image, "intensities", got, f"HU, some of them below {AIR_HU:g}", why, kind)


def _by(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.3g}" for number in numbers)
