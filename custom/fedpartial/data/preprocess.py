"""Preprocessing: the ONE way from a NIfTI file to the network's grid, and back.

Training, validation and inference call the same functions. The prepared grid is the closest canonical (RAS)
one with the preset's spacing: its axes stay parallel to the scan's own, its centre is the scan's centre, and
it covers the whole scan. Images are interpolated linearly, without smoothing before a coarser grid (as the
papers' pipelines do); labels by nearest neighbour. Images and labels are different functions on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.geometry import Grid, resample, voxel_matrix
from fedpartial.data.source_rows import SourceRows
from fedpartial.labels import LabelTable
from fedpartial.presets import Preset

INT16 = np.iinfo(np.int16)
COVER_TOLERANCE = 1e-2
"""Part of a voxel by which the prepared grid may miss the scan's edge, so that 10.0001 voxels are 10."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A file's voxels as stored: array (H W D) and the 4x4 affine to mm."""

    array: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """A normalised image, float32 (H W D), on the preset's grid, and that grid's affine."""

    array: np.ndarray
    affine: np.ndarray


def load_image(path: Path) -> Volume:
    """Read an image (H W D), HU for CT: int16 where the file holds such numbers, else float32.

    Raises what nibabel raises for unreadable files.
    """
    image, array = _read(path, _intensities)
    return Volume(array=array, affine=image.affine)


def load_label(path: Path) -> Volume:
    """Read a label file with the numbers it holds (no conversion, so that 1.5 stays visible)."""
    image, array = _read(path, np.asanyarray)
    return Volume(array=array, affine=image.affine)


def _read(path: Path, voxels: Callable) -> tuple:
    """Header and all voxels, read to the end of the file so that a gzip checksum is verified too."""
    import gzip

    import nibabel

    kind = type(nibabel.load(path))
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as stream:
        image = kind.from_stream(stream)
        if image.get_data_dtype().kind not in "iuf":
            raise ValueError(f"voxels of type {image.get_data_dtype()}; expected one real number each")
        array = voxels(image.dataobj)
        stream.read()
    return image, array


def _intensities(stored: object) -> np.ndarray:
    """Half the memory for most CTs: whole numbers stay whole where slope and intercept are."""
    from nibabel.arrayproxy import ArrayProxy

    if not isinstance(stored, ArrayProxy) or not _is_whole(stored):
        return np.asanyarray(stored, dtype=np.float32)
    array, slope, intercept = stored.get_unscaled(), int(stored.slope), int(stored.inter)
    ends = [int(value) * slope + intercept for value in (array.min(), array.max())] if array.size else [0]
    if min(ends) < INT16.min or max(ends) > INT16.max:
        return np.asanyarray(stored, dtype=np.float32)
    array = array.astype(np.int16, copy=False)
    if (slope, intercept) != (1, 0):
        array = array * np.int16(slope) + np.int16(intercept)
    return array


def _is_whole(stored) -> bool:
    numbers = (stored.slope, stored.inter)
    return stored.dtype.kind in "iu" and all(float(n).is_integer() and abs(n) <= INT16.max for n in numbers)


def prepared_grid(shape: tuple[int, ...], affine: np.ndarray, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid on which a scan of that shape (H W D) and affine is prepared."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    orientation = io_orientation(affine)
    canonical = affine @ inv_ornt_aff(orientation, shape)
    sizes = np.empty(3)
    sizes[orientation[:, 0].astype(int)] = shape
    lengths = np.linalg.norm(canonical[:3, :3], axis=0)
    counts = np.maximum(1, np.ceil(sizes * lengths / spacing_mm - COVER_TOLERANCE)).astype(int)
    vectors = canonical[:3, :3] / lengths * spacing_mm
    centre = canonical[:3, :3] @ ((sizes - 1) / 2) + canonical[:3, 3]
    new = np.eye(4)
    new[:3, :3], new[:3, 3] = vectors, centre - vectors @ ((counts - 1) / 2)
    return Grid(shape=tuple(int(n) for n in counts), affine=new)


def preprocess_image(volume: Volume, preset: Preset) -> PreparedImage:
    """Resample (linear) to the preset's grid, clip to its window, normalise: float32 (H W D)."""
    grid = prepared_grid(volume.array.shape, volume.affine, preset.spacing_mm)
    array = _resample_array(volume, grid, "bilinear", np.float32)
    np.clip(array, *preset.window_hu, out=array)
    array -= preset.normalise_subtract
    array /= preset.normalise_divide
    return PreparedImage(array=array, affine=grid.affine)


def preprocess_label(volume: Volume, table: LabelTable, preset: Preset) -> np.ndarray:
    """Label channels, uint8 (H W D), by nearest neighbour on the grid of preprocess_image.

    ``volume`` holds the file's raw values, ``table`` translates them. Sides are told apart on the file's own grid:
    a coarser one may join what lies close together.
    """
    grid = prepared_grid(volume.array.shape, volume.affine, preset.spacing_mm)
    if table.pairs:
        channels = Volume(array=table.apply(volume.array, volume.affine), affine=volume.affine)
        return _resample_array(channels, grid, "nearest", np.uint8)
    return table.apply(_resample_array(volume, grid, "nearest", np.int32))


def _resample_array(volume: Volume, grid: Grid, mode: str, dtype: type) -> np.ndarray:
    out = np.empty(grid.shape, dtype=dtype)
    matrix = voxel_matrix(volume.affine, grid.affine)
    source = SourceRows(volume.array, matrix, grid.shape)
    slabs = resample(source.tensor, matrix, grid.shape, mode, before=source.need, rows=source.rows_at_once)
    for slab in slabs:
        out[slab.start : slab.stop] = slab.values[0].numpy()
    return out


def highest(scores: Tensor) -> Tensor:
    """The channel with the highest score at each voxel: (C h W D) -> (h W D)."""
    return scores.max(dim=0).indices  # as argmax, which takes six times as long along the first of many axes


def restore_logits(
    logits: Tensor,
    from_affine: np.ndarray,
    to_shape: tuple[int, int, int],
    to_affine: np.ndarray,
    *,
    decide: Callable[[Tensor], Tensor] = highest,
) -> np.ndarray:
    """Label channels, uint8 (H W D), on the original grid, from logits or probabilities (C H W D) on another.

    Interpolates every class linearly and then takes the argmax, which keeps borders smoother than moving
    labels. ``decide`` may say otherwise what scores (C h W D) mean: labels (h W D), or masks (K h W D), and then the
    result is (K H W D). Works on the logits' device in slabs: no full-size volume except the result. Voxels outside of
    the logits' grid are background.
    """
    out = None
    for slab in resample(logits, voxel_matrix(from_affine, to_affine), to_shape, "bilinear"):
        label = (decide(slab.values) * slab.inside).to(torch.uint8).cpu().numpy()
        out = np.empty((*label.shape[:-3], *to_shape), dtype=np.uint8) if out is None else out
        out[..., slab.start : slab.stop, :, :] = label
    return out
