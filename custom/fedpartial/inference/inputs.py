"""What ``fedpartial predict`` is given (files, folders, DICOM series) as scans with a name each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpartial.data.dicom import Series, find_series, load_series
from fedpartial.data.dicom_slices import is_dicom
from fedpartial.data.file_names import SUFFIXES, stem_of
from fedpartial.data.integrity import Fault, load_checked, raise_for_faults
from fedpartial.data.label_names import is_label_map
from fedpartial.data.preprocess import Volume, load_image
from fedpartial.data.readable import unusable
from fedpartial.errors import DataFaults
from fedpartial.inference.journal import short_hash

REMEDY = "Give NIfTI files (.nii, .nii.gz), folders of them, or folders of DICOM series."


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One image to segment. name: what its files in the output folder are called after. path: file or series folder."""

    name: str
    path: Path
    series: Series | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.series is None else tuple(self.series.files)

    @property
    def remark(self) -> str | None:
        """What a user should know of it, if anything."""
        return None if self.series is None else self.series.remark

    @property
    def source(self) -> str:
        """Tells it from other inputs, without its path."""
        return short_hash("\n".join((str(self.path.resolve()), self.series.uid if self.series else "")))

    @property
    def stamp(self) -> dict[str, int]:
        """Tells an input from what it was earlier."""
        found = [file.stat() for file in self.files]
        size, time = sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in found)
        return {"files": len(found), "size": size, "mtime_ns": time}

    def load(self) -> Volume:
        """The image in HU (H W D). Raises DataFaults for what cannot be segmented."""
        if self.series is None:
            volume = load_checked(self.path, "image", load_image, faults := [])
            raise_for_faults(faults)
        else:
            volume = load_series(self.series)
            raise_for_faults(unusable(self.path, volume))
        if broken := _not_finite(volume.array):
            got, remedy = f"{broken} NaN or infinite voxels", "Export the image again."
            raise DataFaults([_fault(self.path, "intensities", got, "finite numbers", remedy)])
        return volume


def find_scans(inputs: Sequence[Path]) -> tuple[list[Scan], list[Fault]]:
    """All scans, and what is wrong with single inputs (the others can still be segmented).

    A folder stands for the NIfTI files in it, without label maps that this project has written; or, where it has none,
    for all DICOM series in it and below. Raises DataFaults where nothing is left, and for two scans of one name.
    """
    scans: dict[object, Scan] = {}
    faults: list[Fault] = []
    for given in inputs:
        try:
            for scan in _scans_of(given, faults):
                scans.setdefault((scan.path.resolve(), scan.series and scan.series.uid), scan)
        except DataFaults as error:
            faults += error.faults
    found = list(scans.values())
    raise_for_faults(_clashes(found))
    if not found:
        raise DataFaults(faults)
    return found, faults


def _scans_of(given: Path, faults: list[Fault]) -> Iterable[Scan]:
    if given.is_dir():
        return _nifti_in(given, faults)
    if not given.exists():
        raise DataFaults([_fault(given, "input", "no such file or folder", "an image", "Correct the path.")])
    if not given.name.endswith(SUFFIXES):
        remedy = "Give the folder that holds the series." if is_dicom(given) else REMEDY
        raise DataFaults([_fault(given, "input", _kind(given), "a NIfTI file or a folder", remedy)])
    return [_nifti(given)]


def _kind(path: Path) -> str:
    return "one slice of a DICOM series" if is_dicom(path) else f"a file of type {path.suffix or 'unknown'}"


def _nifti(path: Path) -> Scan:
    return Scan(name=stem_of(path.name), path=path)


def _nifti_in(folder: Path, faults: list[Fault]) -> list[Scan]:
    """The NIfTI files in a folder; without any, the DICOM series below."""
    named = sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    lost = [path for path in named if not path.exists()]
    remedy = "It is a link to a file that is gone: restore the file, or remove the link."
    faults += [_fault(path, "input", "no such file", "an image", remedy) for path in lost]
    scans = [_nifti(path) for path in named if path.is_file() and not is_label_map(path)]
    return scans if scans or lost else _dicom_below(folder, faults)


def _dicom_below(top: Path, faults: list[Fault]) -> list[Scan]:
    """A series is called after its folder, and after its description where a folder holds several."""
    scans: list[Scan] = []
    before = len(faults)
    for folder in _dicom_folders(top):
        try:
            found = find_series(folder)
        except DataFaults as error:
            faults += error.faults
            continue
        stem = "-".join((top.resolve().name, *folder.relative_to(top).parts))
        names = [stem] if len(found) == 1 else _numbered([f"{stem}-{_plain(s.description)}" for s in found])
        scans += [Scan(name=name, path=folder, series=one) for name, one in zip(names, found, strict=True)]
    if not scans and len(faults) == before:
        raise DataFaults([_nothing(top)])
    return scans


def _nothing(folder: Path) -> Fault:
    below = next((path for end in SUFFIXES for path in sorted(folder.rglob(f"*{end}"))), None)
    remedy = REMEDY if below is None else f"There are some in folders below: give for example {below.parent}."
    return _fault(folder, "input", "no image in it", "NIfTI files or DICOM series", remedy)


def _dicom_folders(top: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(is_dicom(Path(place) / name) for name in sorted(names) if not name.startswith(".")):
            yield Path(place)


def _not_finite(array: np.ndarray) -> int:
    """How many voxels are NaN or infinite; whole numbers never are."""
    return array.size - np.count_nonzero(np.isfinite(array)) if array.dtype.kind == "f" else 0


def _plain(text: str) -> str:
    """What comes before the comma of a series description, as a part of a file name."""
    return re.sub(r"[^\w.]+", "_", text.partition(",")[0]).strip("_.") or "series"


def _numbered(names: Sequence[str]) -> list[str]:
    """Equal names with numbers behind them."""
    return [name if names.count(name) == 1 else f"{name}-{1 + names[:i].count(name)}" for i, name in enumerate(names)]


def _clashes(scans: Iterable[Scan]) -> list[Fault]:
    """Two scans of one name would write the same files. Some file systems take "A" for "a"."""
    first: dict[str, Scan] = {}
    clashing = [scan for scan in scans if first.setdefault(scan.name.casefold(), scan) is not scan]
    remedy = "Rename one of them, or segment them into two folders."
    return [
        _fault(scan.path, "name", f"{scan.name!r}, as of {first[scan.name.casefold()].path}", "each name once", remedy)
        for scan in clashing
    ]


def _fault(file: Path, field: str, got: object, expected: str, remedy: str) -> Fault:
    return Fault(file=file, field=field, got=got, expected=expected, remedy=remedy)
