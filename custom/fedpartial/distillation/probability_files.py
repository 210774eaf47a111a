"""The files of one volume's probability maps, as one model sees it.

``<index>.json``, written last: without it the volume is not done. Beside it for each class ``<index>-<class>.npy``, the
probabilities as uint8 (H W D, read by memory map), and ``<index>-<class>.foreground.npy``, voxels (n, 3) that the map
calls foreground.

A probability p is kept as the nearest of 0/255 .. 255/255: at most 1/510 away, and on the same side of 0.5. The
entropies that selection compares are those of p itself.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpartial.data.stored_case import foreground_index
from fedpartial.distillation.entropy import FOREGROUND, MapEntropy, measure

FORMAT = 1
"""Raise it when the files change, so that those of older versions are made again."""
STEPS = 255
ERROR_BOUND = 0.5 / STEPS
"""A stored probability is at most this far from the model's."""
TEMPORARY = ".{}.tmp"


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbabilityMap:
    """One class of one volume as one teacher sees it.

    Its arrays are memory-mapped at every access, which takes 0.1 ms: a map that stays open holds a file open, and
    there are more maps (teachers * classes * volumes) than files that a process may have open.
    """

    path: Path
    entropy: MapEntropy

    @property
    def quantised(self) -> np.ndarray:
        """uint8 (H W D); divided by 255 the probability."""
        return np.load(self.path, mmap_mode="r")

    @property
    def foreground(self) -> np.ndarray:
        """Voxel indices (n, 3), int16, where p >= 0.5: all of them, or a fixed random 20,000."""
        return np.load(foreground_file(self.path), mmap_mode="r")


def write_maps(index: Path, classes: Sequence[str], probabilities: np.ndarray) -> None:
    """The maps (K H W D) of a volume, then the index that makes them valid."""
    index.unlink(missing_ok=True)
    maps = {}
    for name, values in zip(classes, probabilities, strict=True):
        path = map_file(index, name)
        coordinates, _ = foreground_index((values >= FOREGROUND).astype(np.uint8))
        maps[name] = {
            "entropy": measure(values).to_dict(),
            "checksum": _save(path, np.rint(values * STEPS).astype(np.uint8)),
            "foreground_checksum": _save(foreground_file(path), coordinates),
        }
    text = json.dumps({"format": FORMAT, "maps": maps})
    _replace(index, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_maps(
    index: Path, classes: Sequence[str], check: Callable[[], None] = lambda: None
) -> dict[str, ProbabilityMap] | None:
    """The map of each class; None where the volume is not done or a file is not as it was written.

    Every file is read to its end; ``check`` is called before every block of it and may raise to end that.
    """
    try:
        given = json.loads(index.read_text(encoding="utf-8"))
        return {name: _read(index, name, given, check) for name in classes} if given["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for leftover in folder.glob(TEMPORARY.format("*")):
        leftover.unlink()


def map_file(index: Path, name: str) -> Path:
    return index.with_name(f"{index.stem}-{name}.npy")


def foreground_file(path: Path) -> Path:
    return path.with_suffix(".foreground.npy")


def _read(index: Path, name: str, given: dict, check: Callable[[], None]) -> ProbabilityMap:
    """Raises ValueError where a file has changed."""
    found, path = given["maps"][name], map_file(index, name)
    for file, checksum in ((path, found["checksum"]), (foreground_file(path), found["foreground_checksum"])):
        if _checksum(file, check) != checksum:
            raise ValueError(f"{file.name} has changed")
    return ProbabilityMap(path=path, entropy=MapEntropy(**found["entropy"]))


def _save(path: Path, array: np.ndarray) -> int:
    """Write an array; the checksum of its file."""
    _replace(path, lambda temporary: _save_array(temporary, array))
    return _checksum(path, lambda: None)


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, np.save adds .npy to its name
        np.save(file, array)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Readers see the old file or the new one, never half of it."""
    temporary = path.with_name(TEMPORARY.format(f"{path.name}.{os.getpid()}"))
    write(temporary)
    os.replace(temporary, path)


def _checksum(path: Path, check: Callable[[], None]) -> int:
    """CRC-32, read in blocks."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            check()
            value = zlib.crc32(block, value)
    return value
