"""DICOM series as volumes: which series a folder holds, and the voxels of one in HU with their affine.

Positions decide, not file names or instance numbers: slices are sorted along the normal of their plane, and the
distance between them is that of their positions, since SliceThickness may overlap. Compressed files are decoded by
python-gdcm. What cannot be a volume is a fault, never a guess. No message holds more than file names and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpartial.data.dicom_slices import READ_ERRORS, Slice, is_dicom, quiet, read_slices
from fedpartial.data.dicom_stack import DIRECTION_TOLERANCE, heights, stack_faults, step_of
from fedpartial.data.integrity import Fault, raise_for_faults
from fedpartial.data.preprocess import Volume

L_P_S_TO_R_A_S = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Series:
    """Slices of one series, of one size and orientation, sorted along their normal.

    uid: the SeriesInstanceUID, with "#2" behind it for a second stack of the same. description: its number and how many
    slices it has, not the scanner's text, which may name a patient.
    """

    uid: str
    description: str
    modality: str
    folder: Path
    slices: tuple[Slice, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once, in the order of the slices."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    @property
    def remark(self) -> str | None:
        """What a user should know of it, if anything."""
        if self.modality == "CT":
            return None
        return f"{self.folder}: {self.description}: modality {self.modality or 'unknown'}; the networks are made for CT"


def find_series(folder: Path) -> list[Series]:
    """The series of images that lie in a folder (not in folders below), by number; other files are passed over.

    Scouts, reports and copies of a slice are left out. Raises DataFaults for DICOM files that cannot be read.
    """
    slices: dict[str, Slice] = {}
    faults: list[Fault] = []
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith(".")):
        try:
            for one in read_slices(path) if is_dicom(path) else ():
                slices.setdefault(one.instance, one)
        except READ_ERRORS as error:
            faults.append(_unreadable(path, error))
    raise_for_faults(faults)
    stacks = _stacks(slices.values())
    return [_series(Path(folder), stack, stacks) for stack in sorted(stacks, key=_order)]


def _stacks(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices of one series, size and orientation together."""
    stacks: list[list[Slice]] = []
    for one in slices:
        stack = next((stack for stack in stacks if _together(stack[0], one)), None)
        if stack is None:
            stacks.append([one])
        else:
            stack.append(one)
    return [sorted(stack, key=lambda one: float(one.position @ stack[0].normal)) for stack in stacks]


def _together(one: Slice, other: Slice) -> bool:
    if (one.series, one.size) != (other.series, other.size):
        return False
    return np.allclose(one.directions, other.directions, rtol=0, atol=DIRECTION_TOLERANCE)


def _order(stack: list[Slice]) -> tuple:
    number = stack[0].number
    return (int(number) if number.lstrip("-").isdigit() else 0, stack[0].series, -len(stack))


def _series(folder: Path, stack: list[Slice], stacks: list[list[Slice]]) -> Series:
    same = sorted((other for other in stacks if other[0].series == stack[0].series), key=_order)
    number = 1 + next(n for n, other in enumerate(same) if other is stack)
    return Series(
        uid=stack[0].series + (f"#{number}" if number > 1 else ""),
        description=f"series {stack[0].number or '?'}, {len(stack)} slice(s)",
        modality=stack[0].modality,
        folder=folder,
        slices=tuple(stack),
    )


def load_series(series: Series, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The voxels in HU: axis 0 along the rows, axis 1 down the columns, axis 2 along the slices; affine to mm (R A S).

    int16 where every value is one, else float32. progress: called with (slices read, slices in all). Raises DataFaults
    for slices that are missing, stand twice, are spaced unevenly or lie beside each other, and for damaged files.
    """
    raise_for_faults(stack_faults(series.slices, series.folder))
    rows, columns = series.slices[0].size
    array = np.empty((columns, rows, len(series.slices)), dtype=np.int16, order="F")
    for number, (one, stored) in enumerate(_pixels(series.slices)):
        values = _rescaled(stored, *one.rescale)
        if array.dtype == np.int16 and not _fits(values):
            array = array.astype(np.float32)
        array[..., number] = values.T
        if progress:
            progress(number + 1, len(series.slices))
    return Volume(array=array, affine=series_affine(series))


def series_affine(series: Series) -> np.ndarray:
    """4x4: voxel indices of ``load_series`` -> mm, R A S (PS3.3, C.7.6.2.1.1, for the indices' order and a stack)."""
    first = series.slices[0]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.directions[:3] * first.spacing[1], first.directions[3:] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = first.normal * _step(series), first.position
    return L_P_S_TO_R_A_S @ affine


def _step(series: Series) -> float:
    """The mean distance: the last slice lies where its file says, however positions are rounded."""
    if len(series.slices) == 1:
        return step_of(series.slices)
    along = heights(series.slices)
    return float((along[-1] - along[0]) / (len(along) - 1))


def _pixels(slices: Iterable[Slice]) -> Iterable[tuple[Slice, np.ndarray]]:
    """Each slice with its stored numbers (rows, columns); a file with many frames is opened once."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    opened, dataset = None, None
    for one in slices:
        try:
            with quiet():
                dataset = dataset if opened == one.file else dcmread(one.file)
                stored = pixel_array(dataset, index=one.frame, raw=True)
            if stored.shape != one.size:
                raise ValueError(f"pixels of shape {stored.shape}")
        except READ_ERRORS as error:
            raise_for_faults([_unreadable(one.file, error)])
        opened = one.file
        yield one, stored


def _rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """HU as whole numbers where slope and intercept are whole, else float32."""
    if slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int64) * int(slope) + int(intercept)
    return (stored * slope + intercept).astype(np.float32)


def _fits(values: np.ndarray) -> bool:
    limits = np.iinfo(np.int16)
    return values.dtype.kind == "i" and values.min() >= limits.min and values.max() <= limits.max


def _unreadable(path: Path, error: Exception) -> Fault:
    """Without the error's own words, which may quote values of the file."""
    if isinstance(error, NotImplementedError) or "missing dependencies" in str(error):
        got, remedy = "pixels in a form that is not known here", "Export the series uncompressed."
    else:
        got, remedy = type(error).__name__, "The file is damaged or holds no image: copy or export it again."
    return Fault(file=path, field="file", got=got, expected="a readable DICOM file with pixels", remedy=remedy)
