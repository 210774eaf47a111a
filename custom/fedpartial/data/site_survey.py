"""All surveyed cases of a site, and of several: counts and ranges, what preparing them takes, and repeated scans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from fedpartial.data.datalist import SPLITS
from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.survey import CaseSurvey, class_names
from fedpartial.sites import PUBLIC, SiteConfig

STORED_BYTES = 2 + 1
"""Of a prepared voxel: half-precision image and channel."""
FLOAT_BYTES = 4
KNOWN_COPIES = "(MSD Task03 Liver and LiTS are the same scans.)"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest, median and largest of some numbers."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class ClassSurvey:
    """A class of the site file: cases that annotate it, cases that have voxels of it, and its volume (ml) in these."""

    name: str
    annotated: int
    present: int
    volume_ml: Range | None


@dataclass(frozen=True, kw_only=True)
class SiteSurvey:
    """A site's cases in the order of its datalist. Scans that occur twice: ``repeats`` in two sites or splits, which is
    a fault, ``repeats_of_split`` in one split, which is not."""

    site: SiteConfig
    cases: tuple[CaseSurvey, ...]
    repeats: tuple[Fault, ...] = ()
    repeats_of_split: tuple[Fault, ...] = ()

    @property
    def faults(self) -> tuple[Fault, ...]:
        return (*(fault for case in self.cases for fault in case.faults), *self.repeats)

    @property
    def remarks(self) -> tuple[Fault, ...]:
        of_cases = (remark for case in self.cases for remark in case.remarks)
        return (*of_cases, *self.repeats_of_split, *_absent_classes(self), *_unscored_splits(self))

    @property
    def by_split(self) -> dict[str, int]:
        return {split: sum(case.case.split == split for case in self.cases) for split in SPLITS}

    @property
    def classes(self) -> tuple[ClassSurvey, ...]:
        return tuple(_class_survey(name, self.cases) for name in class_names(self.site))

    def ranges(self, field: str) -> tuple[Range, ...]:
        """Range along each axis of "shape" or "spacing_mm", or of each number in "intensities"; () without any."""
        rows = [value for case in self.cases if (value := getattr(case, field)) is not None]
        return tuple(range_of(column) for column in zip(*rows, strict=True))

    @property
    def orientations(self) -> dict[str, int]:
        found: defaultdict[str, int] = defaultdict(int)
        for case in self.cases:
            if case.orientation:
                found[case.orientation] += 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def stored_bytes(self) -> int:
        """What the prepared cases take on disk, and at most in memory, where they are mapped."""
        return sum(_voxels(case.prepared) * STORED_BYTES for case in self.cases if case.prepared)

    @property
    def preparing_bytes(self) -> int:
        """About what preparing the largest case takes at its peak: its volumes as read, and the prepared ones."""
        return max((_preparing(case) for case in self.cases if case.prepared), default=0)


def range_of(values: Sequence[float]) -> Range:
    return Range(smallest=min(values), median=median(values), largest=max(values))


def repeated_images(cases: Sequence[CaseSurvey]) -> tuple[list[tuple[str, Fault]], list[tuple[str, Fault]]]:
    """Scans that occur more than once: (site, fault) for those in two sites or splits, (site, remark) for others.

    The server's public images have no labels: to have one of them at a site too flatters no score by itself.
    """
    seen: dict[str, CaseSurvey] = {}
    faults, remarks = [], []
    for case in cases:
        first = seen.setdefault(case.digest, case) if case.digest else case
        if first is case:
            continue
        apart = (first.site, first.case.split) != (case.site, case.case.split) and PUBLIC not in (first.site, case.site)
        (faults if apart else remarks).append((case.site, _repeated(case, first)))
    return faults, remarks


def _repeated(case: CaseSurvey, first: CaseSurvey) -> Fault:
    known = f" {KNOWN_COPIES}" if case.site != first.site else ""
    got = f"the scan of {first.case.image}, {first.case.field} of site {first.site}"
    remedy = f"Remove one of them: a case in two places flatters the scores.{known}"
    kind, field = "the same scan twice", f"{case.case.field}.image"
    return data_fault(case.case.image, field, got, "every scan once", remedy, kind)


def _class_survey(name: str, cases: Sequence[CaseSurvey]) -> ClassSurvey:
    volumes = [case.volumes_ml[name] for case in cases if case.volumes_ml is not None and name in case.volumes_ml]
    present = [volume for volume in volumes if volume > 0]
    ranged = range_of(present) if present else None
    return ClassSurvey(name=name, annotated=len(volumes), present=len(present), volume_ml=ranged)


def _absent_classes(survey: SiteSurvey) -> Iterator[Fault]:
    """A class of the site file that no case has voxels of, where all labels could be read."""
    for found in survey.classes:
        if found.annotated and not found.present:
            got, expected = f"no case with voxels of {found.name}", "some"
            why = "Are the label values in the site file right?"
            yield data_fault(survey.site.datalist, "labels", got, expected, why, "class without voxels")


def _unscored_splits(survey: SiteSurvey) -> Iterator[Fault]:
    """Of a site that trains: labelled cases that are missing where a model would be chosen or scored."""
    labelled = {one.case.split for one in survey.cases if one.case.label is not None}
    if "training" not in labelled:
        return
    if "testing" not in labelled:
        instead = "The validation cases are scored." if "validation" in labelled else "Nothing can be scored here."
        yield _missing_split(survey, "testing", instead)
    if "validation" not in labelled:
        yield _missing_split(survey, "validation", "This site has no say in which round's model is the best.")


def _missing_split(survey: SiteSurvey, split: str, remedy: str) -> Fault:
    got, kind = "no labelled case", f"no labelled {split} case"
    return data_fault(survey.site.datalist, split, got, "at least one", remedy, kind)


def _preparing(case: CaseSurvey) -> int:
    voxels, prepared = _voxels(case.shape), _voxels(case.prepared)
    return voxels * case.itemsize + prepared * (FLOAT_BYTES + STORED_BYTES)


def _voxels(shape: tuple[int, ...]) -> int:
    height, width, depth = shape
    return height * width * depth
