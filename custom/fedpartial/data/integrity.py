"""The integrity check: every fault of a data set, in one pass, before anything is trained.

A file is read once, completely; the same pass hands its volumes to the case store.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpartial.data.datalist import SPLITS, Case, read_datalist
from fedpartial.data.preprocess import Volume, load_image, load_label
from fedpartial.errors import DataFaults
from fedpartial.labels import BACKGROUND, LabelSpace
from fedpartial.sites import SiteConfig

AFFINE_TOLERANCE_MM = 1e-3
MIN_VOXEL_MM3 = 1e-9
MAX_VALUES_SHOWN = 8
Progress = Callable[[int, int, str], None]
"""Called with (cases done, cases in all, file name)."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with one file."""

    file: Path
    field: str
    got: object
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: got {self.got}; expected {self.expected}. {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A case's volumes as far as they could be read, and what is wrong with them."""

    image: Volume | None
    label: Volume | None
    faults: list[Fault]


def check_site(site: SiteConfig, space: LabelSpace, progress: Progress | None = None) -> list[Fault]:
    """Read every file of a site and report every fault; an empty list means that the data can be used.

    Raises ConfigError where the site file or the datalist itself is wrong.
    """
    by_split = read_datalist(site)
    cases = [case for split in SPLITS for case in by_split[split]]
    inspector = Inspector(site, space)
    faults: list[Fault] = []
    for done, case in enumerate(cases, start=1):
        faults += inspector.inspect(case).faults
        if progress:
            progress(done, len(cases), case.image.name)
    return faults


def raise_for_faults(faults: Sequence[Fault]) -> None:
    """Raise DataFaults where there are any."""
    if faults:
        raise DataFaults(faults)


class Inspector:
    """Reads the cases of one site and says what preprocessing and training could not rely on."""

    def __init__(self, site: SiteConfig, space: LabelSpace):
        self.site, self.space = site, space
        self.table = space.table(site.labels, where=site.where)

    def inspect(self, case: Case, *, compare: bool = True) -> Inspected:
        """A case's volumes and faults; without ``compare`` only whether they can be read."""
        faults = self._names(case)
        image = load_checked(case.image, f"{case.field}.image", load_image, faults)
        label = None if case.label is None else load_checked(case.label, f"{case.field}.label", load_label, faults)
        if compare:
            faults += self._contents(case, image, label)
        return Inspected(image=image, label=label, faults=faults)

    def _names(self, case: Case) -> list[Fault]:
        named = self._named()
        unknown = [name for name in case.labels or () if name not in named]
        if not unknown:
            return []
        remedy = f"Correct the datalist, or name the label value in {self.site.where}."
        return [_fault(self.site.datalist, f"{case.field}.labels", unknown, f"some of {named}", remedy)]

    def _named(self) -> list[str]:
        return [name for name in dict.fromkeys(self.site.labels.values()) if name != BACKGROUND]

    def _contents(self, case: Case, image: Volume | None, label: Volume | None) -> list[Fault]:
        faults: list[Fault] = []
        if image is not None and not np.isfinite(image.array).all():
            got, remedy = f"{(~np.isfinite(image.array)).sum()} NaN or infinite voxels", "Export the image again."
            faults.append(_fault(case.image, "intensities", got, "finite numbers", remedy))
        if label is not None:
            faults += self._values(case, np.unique(label.array))
        if image is not None and label is not None:
            faults += _same_grid(case, image, label)
        return faults

    def _values(self, case: Case, values: np.ndarray) -> list[Fault]:
        """Label values that are no integers, that the site does not name, or that this case should not have."""
        broken = values[~np.isfinite(values) | (values != np.round(values))]
        if broken.size:
            remedy = "Resample labels by nearest neighbour."
            return [_fault(case.label, "values", _shown(broken), "whole numbers", remedy)]
        if unknown := self.table.unknown(values):
            expected = f"values {list(self.table.channels)}"
            remedy = f"Name each value in {self.site.where} under 'labels' ('background' leaves a structure out)."
            return [_fault(case.label, "values", _shown(np.array(unknown)), expected, remedy)]
        return self._annotated(case, values)

    def _annotated(self, case: Case, values: np.ndarray) -> list[Fault]:
        """A voxel of a class that the datalist says this case does not annotate is a contradiction."""
        if case.labels is None or not set(case.labels) <= set(self._named()):
            return []
        labelled = {0, *(channel for name in case.labels for channel in self.space.channels_of(name))}
        extra = [value for value in values.astype(int).tolist() if not labelled.issuperset(self.table.channels[value])]
        if not extra:
            return []
        got = ", ".join(f"{value} ({self.site.labels[value]})" for value in extra)
        expected = f"only {list(case.labels)}, the classes of {case.field}.labels"
        remedy = "Add the class to the case's labels, or remove its voxels."
        return [_fault(case.label, "values", got, expected, remedy)]


def labelled_mask(case: Case, site: SiteConfig, space: LabelSpace) -> np.ndarray:
    """Bool (C,): which classes a case annotates; the site's unless the datalist entry names its own."""
    if case.labels is None:
        return space.labelled_mask(site.labels.values(), where=site.where)
    return space.labelled_mask(case.labels, where=f"{site.datalist}: {case.field}")


def load_checked(path: Path, field: str, load: Callable[[Path], Volume], faults: list[Fault]) -> Volume | None:
    """The volume that ``load`` reads from a file; or None and one more fault."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not path.is_file():
        faults.append(_fault(path, field, "no such file", "a NIfTI file", "Correct the datalist or restore the file."))
        return None
    try:
        volume = load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        got, remedy = f"{type(error).__name__}: {error}", "The file is damaged: copy or export it again."
        faults.append(_fault(path, field, got, "a readable NIfTI file", remedy))
        return None
    problem = _unusable(path, volume)
    faults += problem
    return None if problem else volume


def _unusable(path: Path, volume: Volume) -> list[Fault]:
    """What makes a readable volume unusable, if anything."""
    shape, affine = volume.array.shape, volume.affine
    if len(shape) != 3 or 0 in shape:
        return [_fault(path, "shape", shape, "three axes of at least one voxel", "Export one 3D volume per file.")]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < MIN_VOXEL_MM3:
        remedy = "Export it again with its orientation and spacing."
        return [_fault(path, "affine", affine.tolist(), "finite numbers and a voxel volume above 0", remedy)]
    return []


def _same_grid(case: Case, image: Volume, label: Volume) -> list[Fault]:
    remedy = f"Resample the label onto {case.image.name}."
    if image.array.shape != label.array.shape:
        return [_fault(case.label, "shape", label.array.shape, f"the image's {image.array.shape}", remedy)]
    if np.allclose(image.affine, label.affine, rtol=0, atol=AFFINE_TOLERANCE_MM):
        return []
    corners = np.array([[0, 0, 0, 1], [*image.array.shape, 1]]).T
    distance = np.abs((image.affine - label.affine) @ corners).max()
    got = f"a grid up to {distance:.3g} mm away"
    return [_fault(case.label, "affine", got, f"the image's, within {AFFINE_TOLERANCE_MM} mm", remedy)]


def _shown(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:MAX_VALUES_SHOWN].tolist())
    return shown if values.size <= MAX_VALUES_SHOWN else f"{shown}, ... ({values.size} values)"


def _fault(file: Path, field: str, got: object, expected: str, remedy: str) -> Fault:
    return Fault(file=file, field=field, got=got, expected=expected, remedy=remedy)
