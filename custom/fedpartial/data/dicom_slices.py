"""What the headers of DICOM files say of the slices in them: where each lies, and how its numbers become HU.

Attributes: DICOM PS3.3, Image Plane (C.7.6.2), CT Image (C.8.2.1), Enhanced CT (C.8.15). Nothing of a patient is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE, MAGIC = 128, b"DICM"
READ_ERRORS = (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError, RuntimeError)
"""What pydicom and its decoders raise for files that are broken or stored in an unknown way."""
TAGS = (
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PhotometricInterpretation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice: lengths in mm, directions and position in DICOM's L P S.

    spacing: (between rows, between columns). rescale: HU = slope * stored + intercept; None where the file says none.
    frame: the index in a file of many, else None.
    """

    file: Path
    frame: int | None
    instance: str
    series: str
    number: str
    modality: str
    photometric: str
    size: tuple[int, int]
    position: np.ndarray
    directions: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    rescale: tuple[float, float] | None

    @property
    def normal(self) -> np.ndarray:
        """The direction in which slices follow each other."""
        return np.cross(self.directions[:3], self.directions[3:])


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns of odd values and quotes them; they may be a patient's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1)."""
    with path.open("rb") as stream:
        return stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC


def read_slices(path: Path) -> list[Slice]:
    """The slices of one DICOM file, one for each frame; none for reports, scouts and pictures without a place.

    Raises one of READ_ERRORS for a broken file.
    """
    from pydicom import dcmread

    with quiet():
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        if "LOCALIZER" in (header.get("ImageType") or ()) or "Rows" not in header:
            return []
        groups = header.get("PerFrameFunctionalGroupsSequence") or [None]
        frames = range(len(groups)) if groups[0] is not None else [None]
        found = [_slice(path, header, group, frame) for group, frame in zip(groups, frames, strict=True)]
    return [one for one in found if one is not None]


def _slice(path: Path, header: Dataset, group: Dataset | None, frame: int | None) -> Slice | None:
    position = _value(header, group, "PlanePositionSequence", "ImagePositionPatient")
    directions = _value(header, group, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _value(header, group, "PixelMeasuresSequence", "PixelSpacing")
    if position is None or directions is None or spacing is None:
        return None
    thickness = _value(header, group, "PixelMeasuresSequence", "SliceThickness")
    return Slice(
        file=path,
        frame=frame,
        instance=f"{header.get('SOPInstanceUID', path.name)} {frame}",
        series=str(header.get("SeriesInstanceUID", "")),
        number=str(header.get("SeriesNumber") or ""),
        modality=str(header.get("Modality", "")),
        photometric=str(header.get("PhotometricInterpretation", "")),
        size=(int(header.Rows), int(header.Columns)),
        position=np.array(position, dtype=float),
        directions=np.array(directions, dtype=float),
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=None if thickness is None else float(thickness),
        rescale=_rescale(header, group),
    )


def _rescale(header: Dataset, group: Dataset | None) -> tuple[float, float] | None:
    found = [_value(header, group, "PixelValueTransformationSequence", f"Rescale{n}") for n in ("Slope", "Intercept")]
    # A table instead of a line is not read; CT has none.
    if None in found or "ModalityLUTSequence" in header:
        return None
    return float(found[0]), float(found[1])


def _value(header: Dataset, group: Dataset | None, sequence: str, keyword: str) -> object | None:
    """An attribute of a slice: of its frame, or of all frames, or of the file."""
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    for functional in (group, shared[0]):
        item = None if functional is None else functional.get(sequence)
        if item and item[0].get(keyword) is not None:
            return item[0].get(keyword)
    return header.get(keyword)
