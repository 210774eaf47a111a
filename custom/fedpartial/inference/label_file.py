"""Label maps on disk: exactly the image's geometry, class names inside, and the colours for 3D Slicer and ITK-SNAP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedpartial.data.label_names import embed_names
from fedpartial.data.preprocess import Volume
from fedpartial.errors import needs_space
from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.formats import class_label

SCANNER = 1
"""NIfTI's code for coordinates of the scanner, which is what DICOM gives."""
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
"""Fields of a NIfTI header that say where voxels lie, with the first four of "pixdim"."""
INT16 = np.iinfo(np.int16)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; it replaces the target when the block ends, and is gone when it fails.

    Raises NoSpaceLeft, and other errors of the system with the target's name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        with needs_space(target.name, target.parent):
            yield temporary
            os.replace(temporary, target)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) != temporary:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_label(
    label: np.ndarray, target: Path, *, like: Path | np.ndarray, names: Mapping[int, str], **facts: object
) -> None:
    """Write labels (H W D), uint8, as NIfTI with the intent "label" and ``names`` (value -> class) in the header.

    like: the NIfTI file whose shape, affine, form codes and units it takes, or a 4x4 affine to RAS mm.
    """
    image = _of_affine(label, like) if isinstance(like, np.ndarray) else _of_file(label, like)
    image.header.set_intent("label", name="labels")
    embed_names(image, names, **facts)
    with replacing(target) as temporary:
        _save(image, temporary)


def save_image(volume: Volume, target: Path) -> None:
    """Write an image (H W D) in HU as NIfTI: int16 where that loses nothing, else float32."""
    array = volume.array
    whole = array.dtype.kind in "iu" or all((part == np.rint(part)).all() for part in array)
    lossless = whole and array.min() >= INT16.min and array.max() <= INT16.max
    array = array.astype(np.int16 if lossless else np.float32, copy=False)
    with replacing(target) as temporary:
        _save(_of_affine(array, volume.affine), temporary)


def _of_file(label: np.ndarray, path: Path):
    """A new header with the geometry only: any text of the old one may name a patient."""
    import nibabel

    source = nibabel.load(path)
    kind = nibabel.Nifti2Image if isinstance(source, nibabel.Nifti2Image) else nibabel.Nifti1Image
    header = kind.header_class(endianness=source.header.endianness)
    header.set_data_dtype("uint8")
    header.set_data_shape(label.shape)
    for name in GEOMETRY:
        header[name] = source.header[name]
    header["pixdim"][:4] = source.header["pixdim"][:4]
    return kind(label, None, header)


def _of_affine(array: np.ndarray, affine: np.ndarray):
    """The qform cannot hold a sheared grid (a tilted gantry): there only the sform is valid."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=SCANNER)
    image.set_qform(affine, code=SCANNER)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.header["qform_code"] = 0
    return image


def _save(image, path: Path) -> None:
    import nibabel

    nibabel.save(image, path)


def save_colours(folder: Path, stem: str, names: Mapping[int, str]) -> list[Path]:
    """Colours of ``names`` (value -> class) for viewers: <stem>.ctbl for 3D Slicer, <stem>_itksnap.txt for ITK-SNAP.

    Formats: Slicer's developer guide, "Colors"; ITK-SNAP's own label description files.
    """
    written = []
    for name, text in ((f"{stem}.ctbl", slicer_table(names)), (f"{stem}_itksnap.txt", itksnap_labels(names))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def slicer_table(names: Mapping[int, str]) -> str:
    """One line for each value: value, name without spaces, red, green, blue, opacity (0 to 255)."""
    rows = [f"{value} {name.replace(' ', '_')} {_rgb(name)} 255" for value, name in sorted(names.items())]
    return "\n".join(("# Color table file", f"# {1 + len(rows)} values", "0 background 0 0 0 0", *rows)) + "\n"


def itksnap_labels(names: Mapping[int, str]) -> str:
    """One line for each value: value, red, green, blue, opacity (0 to 1), shown, mesh shown, "name"."""
    rule = "#" * 48
    header = (rule, "# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL", rule)
    rows = [f'{value} {_rgb(name)} 1 1 1 "{class_label(name)}"' for value, name in sorted(names.items())]
    return "\n".join((*header, '0 0 0 0 0 0 0 "Clear Label"', *rows)) + "\n"


def _rgb(name: str) -> str:
    """'191 74 48' for "#bf4a30"."""
    return " ".join(str(part) for part in bytes.fromhex(colour(name).removeprefix("#")))
