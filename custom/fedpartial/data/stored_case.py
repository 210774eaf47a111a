"""One prepared case on disk: written once, memory-mapped by everyone who reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

FOREGROUND_VOXELS = 20_000
META = "meta.json"
IMAGE, LABEL, FOREGROUND = "image.npy", "label.npy", "foreground.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredCase:
    """A prepared case; its arrays are memory-mapped read-only, anew at each access and for as long as they are held.

    So a process holds no page, map or file descriptor of the cases that it does not read at the moment, however many
    there are; the pages stay in the system's cache. A map costs 0.1 ms.

    ``labelled`` is bool (C,); ``affine`` belongs to the prepared grid, the ``original_`` values to the image
    file. ``foreground_rows`` gives, for each labelled channel that the case has voxels of, its rows in the
    foreground file. The paths never leave the site.
    """

    folder: Path
    index: int
    split: str
    labelled: np.ndarray
    affine: np.ndarray
    original_shape: tuple[int, int, int]
    original_affine: np.ndarray
    image_path: Path
    label_path: Path | None
    foreground_rows: dict[int, tuple[int, int]]

    @property
    def image(self) -> np.ndarray:
        """Normalised intensities, float16 (H W D)."""
        return np.load(self.folder / IMAGE, mmap_mode="r")

    @property
    def label(self) -> np.ndarray | None:
        """Channels of the label space, uint8 (H W D); None for a case without a label file."""
        return None if self.label_path is None else np.load(self.folder / LABEL, mmap_mode="r")

    @property
    def present(self) -> tuple[int, ...]:
        """Labelled channels of which the case has voxels."""
        return tuple(self.foreground_rows)

    def foreground(self, channel: int) -> np.ndarray:
        """Voxel indices (n, 3), int16, of a channel in ``present``: all of them, or a fixed random 20,000."""
        start, stop = self.foreground_rows[channel]
        return np.load(self.folder / FOREGROUND, mmap_mode="r")[start:stop]

    def annotating(self, labelled: np.ndarray) -> StoredCase:
        """The case as one that annotates these classes, bool (C,), and no others."""
        rows = {channel: span for channel, span in self.foreground_rows.items() if labelled[channel]}
        return replace(self, labelled=labelled, foreground_rows=rows)


def write_case(folder: Path, image: np.ndarray, label: np.ndarray | None, meta: dict) -> None:
    """Write a case's arrays (H W D) and, last, its meta.json into an existing folder."""
    np.save(folder / IMAGE, image.astype(np.float16))
    rows: dict[int, tuple[int, int]] = {}
    if label is not None:
        np.save(folder / LABEL, label.astype(np.uint8, copy=False))
        coordinates, rows = foreground_index(label)
        np.save(folder / FOREGROUND, coordinates)
    meta = {**meta, "foreground_rows": {str(channel): list(span) for channel, span in rows.items()}}
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def foreground_index(label: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Coordinates (n, 3) int16 of up to 20,000 voxels of each channel > 0 in ``label`` (H W D), and their rows."""
    parts, rows, start = [np.empty((0, 3), dtype=np.int16)], {}, 0
    flat = label.ravel()
    for channel in (np.flatnonzero(np.bincount(flat)[1:]) + 1).tolist():
        voxels = np.flatnonzero(flat == channel)
        if voxels.size > FOREGROUND_VOXELS:
            voxels = np.sort(np.random.default_rng(channel).choice(voxels, FOREGROUND_VOXELS, replace=False))
        parts.append(np.stack(np.unravel_index(voxels, label.shape), axis=1).astype(np.int16))
        rows[channel] = (start, start + voxels.size)
        start += voxels.size
    return np.concatenate(parts), rows
