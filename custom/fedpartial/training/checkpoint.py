"""A site's training state on disk: what must survive a new process for every round.

Tensors and JSON only (safetensors), written to a temporary name and renamed, so that a crash leaves
the previous state readable. The two latest rounds are kept: a round that is asked for again starts
from the state before it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

PATTERN = "after_round_{:05d}.safetensors"
EVERY = "after_round_*.safetensors"
KEPT = 2


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """Optimiser tensors by name and plain values (JSON)."""

    tensors: dict[str, Tensor]
    values: dict


def save_state(folder: Path, round_number: int, state: SiteState) -> Path:
    """Write the state after ``round_number``; keep the one before it, drop older ones and abandoned later ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, round_number)
    write_tensors(path, state.tensors, {"values": json.dumps(state.values)})
    written = sorted(folder.glob(EVERY))
    kept = [p for p in written if p.name <= path.name][-KEPT:]
    for other in written:
        if other not in kept:
            other.unlink()
    return path


def state_path(folder: Path, round_number: int) -> Path:
    """Where the state after a round lies."""
    return folder / PATTERN.format(round_number)


def discard_unreadable(folder: Path) -> list[Path]:
    """Remove states that no reader understands, as a disk may leave after a power cut; their names."""
    torn = [path for path in sorted(folder.glob(EVERY)) if not _is_readable(path)]
    for path in torn:
        path.unlink()
    return torn


def _is_readable(path: Path) -> bool:
    try:
        return "round" in json.loads(read_tensors(path)[1]["values"])
    except (SafetensorError, KeyError, ValueError, TypeError):
        return False


def load_state_before(folder: Path, round_number: int) -> SiteState | None:
    """The latest state written before ``round_number``, or None for a site that starts."""
    earlier = [p for p in sorted(folder.glob(EVERY)) if p.name < PATTERN.format(round_number)]
    if not earlier:
        return None
    tensors, metadata = read_tensors(earlier[-1])
    return SiteState(tensors=tensors, values=json.loads(metadata["values"]))


def adopt_states(folder: Path, earlier: Iterable[Path]) -> Path | None:
    """Copy the states of an interrupted run into an empty ``folder``, from the first place that has any."""
    if list(folder.glob(EVERY)):
        return None
    for place in earlier:
        if any(place.glob(EVERY)):
            for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that died while it copied
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
                os.replace(shutil.copytree(place, Path(beside) / folder.name), folder)  # all of it or nothing
            return place
    return None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Atomic safetensors file: readers see the old file or the new one, never half of it, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
    _synchronise(temporary)
    os.replace(temporary, path)
    _synchronise(path.parent)


def _synchronise(path: Path) -> None:
    """File or folder as it is now is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
