"""The frozen vectors that stand for classes in a universal network (METHODS 4.1): unit length, one for each class name.

The paper takes text vectors of CLIP. A file may hold such vectors (tools/clip_embeddings.py makes one); without a file
a class's vector is drawn at random from its name, so that it is the same in every label space, run and year.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedpartial.errors import ConfigError


def class_embedding(name: str, length: int) -> np.ndarray:
    """A vector (length,), float32 of norm 1, that follows from the class's name alone.

    RandomState, because NumPy promises its numbers for ever; those of default_rng may change with a version.
    """
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(length)
    return _unit(drawn)


def read_embeddings(path: Path, length: int) -> dict[str, np.ndarray]:
    """The vectors of a .safetensors file by class name, each (length,), float32, brought to norm 1.

    Raises ConfigError for a file that cannot be read, and for a vector of another length, of zeros, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        remedy = "Make it with tools/clip_embeddings.py; a pickle (.pt) is not read."
        raise _error(str(path), "file", str(error), "a .safetensors file, one vector for each class", remedy) from None
    for name, vector in found.items():
        check_vector(name, vector, length, where=str(path))
    return {name: _unit(vector) for name, vector in found.items()}


def class_vectors(
    classes: Sequence[str], length: int, given: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The vector of each class: the given ones, each of which must be there, or those that follow from the names."""
    if given is None:
        return {name: class_embedding(name, length) for name in classes}
    if missing := [name for name in classes if name not in given]:
        remedy = "Add its vector to the file: a class that has a vector of another kind would be understood by no site."
        raise _error("embeddings", missing[0], "no vector", f"vectors of all of {', '.join(classes)}", remedy)
    for name in classes:
        check_vector(name, given[name], length, where="embeddings")
    return {name: np.asarray(given[name], dtype=np.float32) for name in classes}


def check_vector(name: str, vector: np.ndarray, length: int, *, where: str) -> None:
    """Raise ConfigError unless it is (length,), finite and not all zeros."""
    vector = np.asarray(vector)
    if vector.shape == (length,) and vector.dtype.kind == "f" and np.isfinite(vector).all() and vector.any():
        return
    got = f"{vector.dtype} of shape {vector.shape}" + (", with bad values" if vector.shape == (length,) else "")
    remedy = "Take vectors of the length that the preset's network names (embedding), made by one text encoder."
    raise _error(where, name, got, f"{length} finite numbers, not all 0", remedy)


def _unit(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _error(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
