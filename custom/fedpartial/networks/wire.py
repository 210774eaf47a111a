"""How numbers travel between server and sites: as they are, or in half precision, both ways.

The server sends its model W rounded, r(W); a site trains from r(W) and answers with local - r(W), rounded as well; the
server adds the mean of that to W itself. Measured from what a site has received, an update holds training and nothing
else. Its own numbers are small, so half precision keeps three digits of each, where a weight of 1 sent as a whole would
have steps of 1/1024 and lose what a round of training changes. What r(W) leaves out stays in W: roundings do not add up
from round to round.

Never rounded are running statistics of BatchNorm (a variance can exceed the largest half, and they weigh little), class
vectors of the universal network (the server compares them bit for bit), and whatever is no float32 or float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from fedpartial.errors import ConfigError
from fedpartial.networks.canonical import is_statistic
from fedpartial.networks.split import EMBEDDINGS

Wire = Literal["float32", "float16"]
"""What a job can ask for (`wire` of its plan)."""
LARGEST_HALF = 65504


def to_wire(arrays: Mapping[str, np.ndarray], wire: Wire) -> dict[str, np.ndarray]:
    """The tensors as they travel, in a new mapping; "float32" changes none.

    NaN and infinity stay what they are, for the checks of whoever receives them. ConfigError where a finite value is
    too large for half precision.
    """
    return {name: _half(name, value) if _is_halved(name, value, wire) else value for name, value in arrays.items()}


def from_wire(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What has come in half precision as float32, exactly; everything else as it is."""
    return {name: _single(value) for name, value in arrays.items()}


def as_received(arrays: Mapping[str, np.ndarray], wire: Wire) -> dict[str, np.ndarray]:
    """The tensors as the other side has them after the journey."""
    return from_wire(to_wire(arrays, wire))


def wire_bytes(arrays: Mapping[str, np.ndarray], wire: Wire) -> int:
    """Bytes of the tensors as they travel, without FLARE's envelope."""
    return sum(tensor_bytes(name, value, wire) for name, value in arrays.items())


def tensor_bytes(name: str, value: np.ndarray, wire: Wire) -> int:
    """Bytes of one tensor as it travels."""
    value = np.asarray(value)
    return int(value.size * np.dtype(np.float16).itemsize if _is_halved(name, value, wire) else value.nbytes)


def _is_halved(name: str, value: object, wire: Wire) -> bool:
    exact = is_statistic(name) or name.startswith(EMBEDDINGS)
    return wire == "float16" and not exact and getattr(value, "dtype", None) in (np.float32, np.float64)


def _half(name: str, value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if (np.isinf(half) & np.isfinite(value)).any():
        raise ConfigError(
            where="message",
            field="wire",
            got=f"a value of {np.abs(value[np.isfinite(value)]).max():g} in tensor {name!r}",
            expected=f"values of at most {LARGEST_HALF} in tensor {name!r}, or the wire 'float32'",
            remedy="Half precision ends there. Run the job with --set wire=float32.",
        )
    return half


def _single(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value
