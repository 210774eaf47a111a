"""Reading a volume that somebody else has written: everything that can be wrong with the file itself has a name."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.file_names import SUFFIXES
from fedpartial.data.preprocess import Volume

MIN_VOXEL_MM3 = 1e-9
EDGES_MM = (0.01, 50.0)
"""Of voxels. Scouts and thick slices stay below the highest, even micro-CT above the lowest."""
MAX_EXTENT_MM = 5000.0
"""Twice the longest table."""
NO_NUMBERS = "one real number each"
"""What fedpartial.data.preprocess says of colours."""
NIFTI1_BYTES = 348
"""Of a header."""


def load_checked(path: Path, field: str, load: Callable[[Path], Volume], faults: list[Fault]) -> Volume | None:
    """The volume that ``load`` reads from a file; or None and one more fault."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        if problem := _no_file(path, field):
            faults.append(problem)
            return None
        volume = load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        faults.append(_unreadable(path, field, error))
        return None
    except (MemoryError, OverflowError) as error:
        remedy = "Its header may be damaged: copy or export it again."
        got = f"more voxels than fit into memory ({type(error).__name__})"
        faults.append(data_fault(path, field, got, "a readable NIfTI file", remedy, "too large for the memory"))
        return None
    problem = unusable(path, volume) or _no_spacing(path)
    faults += problem
    return None if problem else volume


def _no_file(path: Path, field: str) -> Fault | None:
    """What is wrong with a path, before anything is read."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        remedy = "Correct the path or restore the file."
        return data_fault(path, field, got, "a NIfTI file", remedy, "a folder" if path.is_dir() else "missing file")
    if not path.name.endswith(SUFFIXES):
        remedy = "Convert it (for example with 3D Slicer or dcm2niix), or correct the ending of its name."
        return data_fault(path, field, path.name, "a file name with .nii or .nii.gz", remedy, "not NIfTI")
    if path.stat().st_size == 0:
        remedy = "Copy or export it again."
        return data_fault(path, field, "an empty file", "a readable NIfTI file", remedy, "empty file")
    return None


def _no_spacing(path: Path) -> list[Fault]:
    """A voxel edge of 0 mm in the header of a file without sform: nibabel would silently take 1 mm."""
    from nibabel import Nifti1Header
    from nibabel.openers import ImageOpener

    with ImageOpener(path) as stream:
        raw = stream.read(NIFTI1_BYTES)
    header = Nifti1Header(raw, check=False)
    edges = header["pixdim"][1:4]
    if header["sizeof_hdr"] != NIFTI1_BYTES or header["sform_code"] or edges.all():
        return []
    got, remedy = f"a spacing of {edges.tolist()} mm", "Export it again with its orientation and spacing."
    return [data_fault(path, "affine", got, "edges above 0 mm", remedy, "no usable affine")]


def _unreadable(path: Path, field: str, error: Exception) -> Fault:
    remedies = {
        PermissionError: ("no permission", "Ask for the right to read it, or copy it to where you may."),
        EOFError: ("cut short", "The copy is not complete: copy or download it again."),
    }
    damaged = ("unreadable", "The file is damaged or no NIfTI: copy or export it again.")
    kind, remedy = next((found for of, found in remedies.items() if isinstance(error, of)), damaged)
    if NO_NUMBERS in str(error):
        kind, remedy = "colours or complex numbers", "Export grey values, one number for each voxel."
    got = f"{type(error).__name__}: {error}".replace("\n", " ")
    return data_fault(path, field, got, "a readable NIfTI file", remedy, kind)


def unusable(path: Path, volume: Volume) -> list[Fault]:
    """What makes a readable volume unusable, if anything."""
    shape, affine = volume.array.shape, volume.affine
    if len(shape) != 3 or 0 in shape:
        remedy = "Export one 3D volume per file."
        if len(shape) > 3 and set(shape[3:]) == {1}:
            remedy = "It holds one volume only: save it without the last axis, as nibabel.squeeze_image does."
        return [data_fault(path, "shape", shape, "three axes of at least one voxel", remedy, "not three axes")]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < MIN_VOXEL_MM3:
        got, expected = affine.tolist(), "finite numbers and a voxel volume above 0"
        remedy = "Export it again with its orientation and spacing."
        return [data_fault(path, "affine", got, expected, remedy, "no usable affine")]
    return _implausible(path, shape, np.linalg.norm(affine[:3, :3], axis=0))


def _implausible(path: Path, shape: tuple[int, ...], edges: np.ndarray) -> list[Fault]:
    """A header in metres or micrometres, or one that is damaged: its grid would fill any memory, or be one voxel."""
    low, high = EDGES_MM
    extent = edges * shape
    if low <= edges.min() and edges.max() <= high and extent.max() <= MAX_EXTENT_MM:
        return []
    voxel, whole = (" x ".join(f"{mm:.4g}" for mm in values) for values in (edges, extent))
    return [
        data_fault(
            path,
            "affine",
            f"voxels of {voxel} mm, an image of {whole} mm",
            f"edges of {low:g} to {high:g} mm, and at most {MAX_EXTENT_MM / 1000:g} m along each axis",
            "Is its header in another unit? Export it again with its spacing in mm.",
            "implausible spacing",
        )
    ]
