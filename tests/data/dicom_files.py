"""Tiny DICOM series: the volume of a NIfTI file as a scanner would store it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

TO_LPS = np.diag([-1.0, -1.0, 1.0])


def ct_header(series: str, number: int = 3, **attributes) -> Dataset:
    """A CT slice without place and pixels; attributes replace what stands there, None removes it."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.SeriesInstanceUID, header.SeriesNumber, header.Modality = series, number, "CT"
    header.PatientName, header.SeriesDescription = "Doe^Jane", "Jane Doe, abdomen"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 1
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    header.SliceThickness = 5
    for name, value in attributes.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    return header


def slice_of(hu: np.ndarray, affine: np.ndarray, index: int, series: str, **attributes) -> Dataset:
    """Slice ``index`` of a volume (columns rows slices) whose affine (R A S) has orthogonal axes."""
    header = ct_header(series, **attributes)
    axes = TO_LPS @ affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    header.ImageOrientationPatient = [f"{v:.9f}" for v in (*(axes[:, 0] / lengths[0]), *(axes[:, 1] / lengths[1]))]
    header.ImagePositionPatient = [f"{v:.6f}" for v in TO_LPS @ (affine[:3, 3] + affine[:3, 2] * index)]
    header.PixelSpacing = [float(lengths[1]), float(lengths[0])]
    pixels = (hu[..., index].T - float(header.RescaleIntercept)) / float(header.RescaleSlope)
    header.Rows, header.Columns = pixels.shape
    kind = "int16" if header.PixelRepresentation else "uint16"
    header.PixelData = np.ascontiguousarray(np.round(pixels)).astype(kind).tobytes()
    return header


def write_series(folder: Path, hu: np.ndarray, affine: np.ndarray, *, leave_out=(), names=None, **attributes) -> str:
    """A series of all slices under names that say nothing of their order; its UID."""
    folder.mkdir(parents=True, exist_ok=True)
    series = attributes.pop("series", None) or generate_uid()
    order = np.random.default_rng(0).permutation(hu.shape[2])
    for index, name in enumerate(order):
        if index not in leave_out:
            one = slice_of(hu, affine, index, series, **attributes)
            one.save_as(folder / (names[index] if names else f"IM{series[-12:]}{name:03d}"), enforce_file_format=True)
    return series


def change(path: Path, **attributes) -> None:
    """Replace attributes of a file."""
    header = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(header, name, value)
    header.save_as(path, enforce_file_format=True)
