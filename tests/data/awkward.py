"""Cases as they come from hospitals and downloads: each is right after all, or has one clear fault.

``AWKWARD`` has a builder for each: it writes an image and a label into a folder and returns their datalist entry.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from tiny_hospital import write_nifti

SHAPE = (12, 10, 8)
SPACING = np.diag([2.0, 2.0, 3.0, 1.0])


def scan(shape=SHAPE, seed: int = 0) -> np.ndarray:
    """int16 HU with air around a body."""
    array = np.full(shape, -1000, dtype=np.int16)
    inner = array[2:-2, 2:-2]
    inner[...] = np.random.default_rng(seed).normal(60, 40, inner.shape)
    return array


def organs(shape=SHAPE, dtype: type = np.uint8) -> np.ndarray:
    """Value 1 with a 2 in it."""
    array = np.zeros(shape, dtype=dtype)
    array[3:8, 3:7] = 1
    array[4:6, 4:6] = 2
    return array


def case(
    root: Path, image: np.ndarray | None = None, label: np.ndarray | None = None, image_affine=None, label_affine=None
) -> dict[str, str]:
    """The usual image and label unless others are given; returns their datalist entry."""
    image_affine = SPACING if image_affine is None else image_affine
    write_nifti(root / "ct.nii.gz", scan() if image is None else image, image_affine)
    label_affine = image_affine if label_affine is None else label_affine
    write_nifti(root / "seg.nii.gz", organs() if label is None else label, label_affine)
    return {"image": "ct.nii.gz", "label": "seg.nii.gz"}


def spaced(root: Path, *edges: float) -> dict[str, str]:
    """The image only says so."""
    return case(root, image_affine=np.diag([*map(float, edges), 1.0]), label_affine=SPACING)


def moved(mm: float) -> np.ndarray:
    affine = SPACING.copy()
    affine[0, 3] += mm
    return affine


def with_header(root: Path, change: Callable[[bytearray], None], file: str = "ct.nii.gz") -> dict[str, str]:
    """The usual case, with bytes of a file's header changed."""
    entry = case(root)
    raw = bytearray(gzip.decompress((root / file).read_bytes()))
    change(raw)
    (root / file).write_bytes(gzip.compress(bytes(raw)))
    return entry


def replaced(root: Path, content: bytes, file: str = "ct.nii.gz") -> dict[str, str]:
    entry = case(root)
    (root / file).write_bytes(content)
    return entry


def cut_short(root: Path) -> dict[str, str]:
    entry = case(root)
    path = root / entry["image"]
    path.write_bytes(path.read_bytes()[:-100])
    return entry


def oblique(root: Path) -> dict[str, str]:
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return case(root, image_affine=turn @ SPACING)


def other_letters(root: Path) -> dict[str, str]:
    entry = case(root)
    (root / "Müller 肝 №1").mkdir()
    moved_to = {kind: f"Müller 肝 №1/my {name}" for kind, name in entry.items()}
    for kind, name in entry.items():
        (root / name).rename(root / moved_to[kind])
    return moved_to


def two_forms(root: Path) -> dict[str, str]:
    entry = case(root)
    for name in entry.values():
        image = nibabel.load(root / name)
        array = np.asanyarray(image.dataobj)
        image.set_sform(SPACING, code=1)
        image.set_qform(moved(5.0), code=1)
        nibabel.save(nibabel.Nifti1Image(array, None, image.header), root / name)
    return entry


def folder(root: Path) -> dict[str, str]:
    entry = case(root)
    (root / entry["image"]).unlink()
    (root / entry["image"]).mkdir()
    return entry


def other_format(root: Path) -> dict[str, str]:
    entry = case(root)
    (root / entry["image"]).rename(root / "ct.mha")
    return {**entry, "image": "ct.mha"}


def set_form_codes(raw: bytearray, sform: int) -> None:
    raw[252:254], raw[254:256] = (0).to_bytes(2, "little"), sform.to_bytes(2, "little")


def nan_affine(raw: bytearray) -> None:
    set_form_codes(raw, sform=1)
    raw[280:328] = np.full(12, np.nan, dtype="<f4").tobytes()


def zero_spacing(raw: bytearray) -> None:
    set_form_codes(raw, sform=0)
    raw[80:92] = np.zeros(3, dtype="<f4").tobytes()


def no_orientation(raw: bytearray) -> None:
    set_form_codes(raw, sform=0)


def huge(raw: bytearray) -> None:
    raw[42:48] = np.full(3, 32_000, dtype="<i2").tobytes()


def turned_nowhere(root: Path) -> dict[str, str]:
    """Image and label alike, or the one would lie beside the other."""
    entry = with_header(root, no_orientation)
    raw = bytearray(gzip.decompress((root / entry["label"]).read_bytes()))
    no_orientation(raw)
    (root / entry["label"]).write_bytes(gzip.compress(bytes(raw)))
    return entry


def int64_labels(root: Path) -> dict[str, str]:
    entry = case(root)
    nibabel.save(nibabel.Nifti1Image(organs(dtype=np.int64), SPACING, dtype=np.int64), root / entry["label"])
    return entry


def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, SHAPE, dtype=np.int16)


def of_dtype(dtype: object) -> np.ndarray:
    return np.zeros(SHAPE, dtype=dtype)


RGB = [("R", "u1"), ("G", "u1"), ("B", "u1")]
HALVES = np.where(organs() == 2, 1.5, organs()).astype(np.float32)
LARGE = np.where(organs() == 2, 70_000, organs(dtype=np.int32))

AWKWARD: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    # a right result, with or without a remark
    "rounded affine": (lambda root: case(root, label_affine=moved(0.1)), ""),
    "rounded spacing": (lambda root: case(root, label_affine=np.diag([2.01, 2, 3, 1])), ""),
    "float labels": (lambda root: case(root, label=organs(dtype=np.float32)), ""),
    "int64 labels": (int64_labels, ""),
    "big endian": (lambda root: case(root, scan().astype(">i2"), organs().astype(">u2")), ""),
    "other letters": (other_letters, ""),
    "oblique": (oblique, ""),
    "one slice": (lambda root: case(root, scan((12, 10, 1)), organs((12, 10, 1))), "one slice"),
    "empty label": (lambda root: case(root, label=0 * organs()), "empty label"),
    "sform and qform differ": (two_forms, "sform and qform differ"),
    "no orientation": (turned_nowhere, "no orientation"),
    "not HU": (lambda root: case(root, scan() + 1024), "not in HU"),
    "windowed": (lambda root: case(root, np.clip(scan(), -160, 240)), "no air"),
    "default spacing": (lambda root: case(root, image_affine=np.eye(4)), "default spacing"),
    # one clear fault
    "trailing axis": (lambda root: case(root, scan()[..., None]), "not three axes"),
    "four axes": (lambda root: case(root, np.stack([scan()] * 2, axis=-1)), "not three axes"),
    "half a voxel away": (lambda root: case(root, label_affine=moved(1.0)), "label beside the image"),
    "label without header": (lambda root: case(root, label_affine=np.eye(4)), "label without a header of its own"),
    "label flipped": (lambda root: case(root, label_affine=np.diag([-2.0, 2, 3, 1])), "label beside the image"),
    "label of another shape": (lambda root: case(root, label=organs()[:-1]), "label and image of two shapes"),
    "gzip cut short": (cut_short, "cut short"),
    "half labels": (lambda root: case(root, label=HALVES), "fractions as labels"),
    "label above 65535": (lambda root: case(root, label=LARGE), "unnamed label values"),
    "image and label swapped": (lambda root: case(root, organs(), noise()), "an image as label"),
    "image as its own label": (lambda root: {**case(root), "label": "ct.nii.gz"}, "an image as label"),
    "colours": (lambda root: case(root, of_dtype(RGB)), "colours or complex numbers"),
    "complex": (lambda root: case(root, of_dtype(np.complex64)), "colours or complex numbers"),
    "empty file": (lambda root: replaced(root, b""), "empty file"),
    "text": (lambda root: replaced(root, b"please ask the radiology department\n"), "unreadable"),
    "another compression": (lambda root: replaced(root, b"PK\x03\x04" + bytes(400)), "unreadable"),
    "NaN affine": (lambda root: with_header(root, nan_affine), "no usable affine"),
    "zero spacing": (lambda root: with_header(root, zero_spacing), "no usable affine"),
    "spacing of a damaged header": (lambda root: spaced(root, 1e20, 1, 1), "implausible spacing"),
    "header in another unit": (lambda root: spaced(root, 900, 900, 900), "implausible spacing"),
    "thick beyond belief": (lambda root: spaced(root, 2, 2, 60), "implausible spacing"),
    "header in metres": (lambda root: spaced(root, 0.002, 0.002, 0.005), "implausible spacing"),
    "huge header": (lambda root: with_header(root, huge), "too large for the memory"),
    "folder": (folder, "a folder"),
    "missing": (lambda root: {**case(root), "image": "no such.nii.gz"}, "missing file"),
    "another format": (other_format, "not NIfTI"),
}
"""Name -> builder, and the kind of the one fault or remark; "" where there is neither."""

REMARKS = {
    *("one slice", "empty label", "sform and qform differ", "no orientation", "not in HU", "no air", "default spacing")
}
"""Kinds that are no faults."""
