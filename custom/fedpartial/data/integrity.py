"""The integrity check: every fault of a data set, in one pass, before anything is trained.

A file is read once, completely; the same pass hands its volumes to the case store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedpartial.data.datalist import SPLITS, Case, read_datalist
from fedpartial.data.faults import Fault, data_fault, raise_for_faults
from fedpartial.data.label_values import count_values
from fedpartial.data.preprocess import Volume, load_image, load_label
from fedpartial.data.readable import load_checked
from fedpartial.data.same_grid import is_same_grid, off_grid
from fedpartial.labels import BACKGROUND, LabelSpace
from fedpartial.sites import SiteConfig

__all__ = ["Fault", "Inspected", "Inspector", "check_site", "labelled_mask", "load_checked", "raise_for_faults"]

MAX_VALUES_SHOWN = 8
MAX_CLASSES = 255
"""A label file with more different values is no label file."""
Progress = Callable[[int, int, str], None]
"""Called with (cases done, cases in all, file name)."""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A case's volumes as far as they could be read, and what is wrong with them.

    A label on the image's grid has the image's affine, so that rounded headers never make two grids of one.
    counts: raw label value -> number of voxels, where all of them are whole numbers and were looked at.
    """

    image: Volume | None
    label: Volume | None
    faults: list[Fault]
    counts: dict[int, int] | None = None


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


class Inspector:
    """Reads the cases of one site and says what preprocessing and training could not rely on."""

    def __init__(self, site: SiteConfig, space: LabelSpace):
        self.site, self.space = site, space
        self.table = space.table(site.labels, where=site.where)

    def inspect(self, case: Case, *, compare: bool = True) -> Inspected:
        """A case's volumes and faults; without ``compare`` only whether they can be read."""
        faults = [*self._names(case), *_same_file(case)]
        image = load_checked(case.image, f"{case.field}.image", load_image, faults)
        label = None
        if case.label is not None and case.label != case.image:
            label = load_checked(case.label, f"{case.field}.label", load_label, faults)
        values, counts = count_values(label.array) if compare and label is not None else (None, None)
        if compare:
            faults += self._contents(case, image, label, values)
        if image is not None and label is not None and is_same_grid(image, label):
            label = Volume(array=label.array, affine=image.affine)
        return Inspected(image=image, label=label, faults=faults, counts=_whole(values, counts))

    def _names(self, case: Case) -> list[Fault]:
        named = self._named()
        unknown = [name for name in case.labels or () if name not in named]
        if not unknown:
            return []
        remedy = f"Correct the datalist, or name the label value in {self.site.where}."
        expected = f"some of {named}"
        return [data_fault(self.site.datalist, f"{case.field}.labels", unknown, expected, remedy, "unknown class")]

    def _named(self) -> list[str]:
        return [name for name in dict.fromkeys(self.site.labels.values()) if name != BACKGROUND]

    def _contents(
        self, case: Case, image: Volume | None, label: Volume | None, values: np.ndarray | None
    ) -> list[Fault]:
        faults: list[Fault] = []
        if image is not None and not np.isfinite(image.array).all():
            got, remedy = f"{(~np.isfinite(image.array)).sum()} NaN or infinite voxels", "Export the image again."
            kind = "NaN or infinite voxels"
            faults.append(data_fault(case.image, "intensities", got, "finite numbers", remedy, kind))
        if values is not None:
            faults += self._values(case, values)
        if image is not None and label is not None:
            faults += off_grid(case.label, label, case.image, image)
        return faults

    def _values(self, case: Case, values: np.ndarray) -> list[Fault]:
        """Label values that are no integers, that the site does not name, or that this case should not have."""
        if values.size > MAX_CLASSES:
            got = f"{values.size} different values from {values.min():g} to {values.max():g}"
            remedy = "This looks like an image: are image and label swapped in the datalist?"
            return [data_fault(case.label, "values", got, "a few whole numbers", remedy, "an image as label")]
        broken = values[~np.isfinite(values) | (values != np.round(values))]
        if broken.size:
            remedy = "Resample labels by nearest neighbour."
            return [data_fault(case.label, "values", _shown(broken), "whole numbers", remedy, "fractions as labels")]
        if unknown := self.table.unknown(values):
            expected = f"values {list(self.table.channels)}"
            remedy = f"Name each value in {self.site.where} under 'labels' ('background' leaves a structure out)."
            got = _shown(np.array(unknown))
            return [data_fault(case.label, "values", got, expected, remedy, "unnamed label values")]
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
        return [data_fault(case.label, "values", got, expected, remedy, "a class the case does not annotate")]


def labelled_mask(case: Case, site: SiteConfig, space: LabelSpace) -> np.ndarray:
    """Bool (C,): which classes a case annotates; the site's unless the datalist entry names its own."""
    if case.labels is None:
        return space.labelled_mask(site.labels.values(), where=site.where)
    return space.labelled_mask(case.labels, where=f"{site.datalist}: {case.field}")


def _same_file(case: Case) -> list[Fault]:
    if case.label != case.image:
        return []
    got, remedy = "the image's own path", "Correct the datalist."
    return [data_fault(case.label, f"{case.field}.label", got, "a label file", remedy, "an image as label")]


def _whole(values: np.ndarray | None, counts: np.ndarray | None) -> dict[int, int] | None:
    if values is None or not (np.isfinite(values).all() and (values == np.round(values)).all()):
        return None
    return dict(zip(values.astype(np.int64).tolist(), counts.tolist(), strict=True))


def _shown(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:MAX_VALUES_SHOWN].tolist())
    return shown if values.size <= MAX_VALUES_SHOWN else f"{shown}, ... ({values.size} values)"
