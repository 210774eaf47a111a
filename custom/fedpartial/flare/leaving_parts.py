"""Privacy filter: only the named parts of a model may leave the site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from nvflare.apis.dxo import DXO
from nvflare.apis.shareable import Shareable

from fedpartial.errors import ConfigError
from fedpartial.flare.leaving import LeavingFilter, LeavingRefused, shown, walk
from fedpartial.flare.weights import WEIGHT_KINDS

TENSOR_TYPES = (np.ndarray, torch.Tensor)


class NamedParts(LeavingFilter):
    """Refuses a whole result that holds a tensor which is not named, wherever in the result it is.

    Nothing is left out silently: an update without its private head would look complete to the server.

    Args:
        parts: patterns (as of a shell) of tensor names that may leave.
        private: patterns of names that may not, whatever ``parts`` says.
    """

    def __init__(self, parts: Sequence[str], private: Sequence[str] = ()):
        super().__init__()
        self.parts, self.private = _patterns("parts", parts), _patterns("private", private)
        if not self.parts:
            raise _wrong("parts", parts)

    def passed(self, result: Shareable) -> Shareable:
        for name in tensor_names(result):
            if not self.may_leave(name):
                raise LeavingRefused(f"tensor {shown(name)} may not leave this site")
        return result

    def may_leave(self, name: str) -> bool:
        allowed = any(fnmatchcase(name, pattern) for pattern in self.parts)
        return allowed and not any(fnmatchcase(name, pattern) for pattern in self.private)


def tensor_names(result: Shareable) -> Iterator[str]:
    """Names of all tensors of a result; LeavingRefused where one stands outside of a set of weights."""
    weights: set[tuple] = set()
    for path, value in walk(result):
        if _holds_weights(value):
            weights.add((*path, "data"))
        elif path[:-1] in weights:
            yield _name(path[-1], value)
        elif isinstance(value, TENSOR_TYPES):
            raise LeavingRefused("a tensor stands outside of the weights", path)


def _holds_weights(value: object) -> bool:
    if isinstance(value, DXO):
        return value.data_kind in WEIGHT_KINDS
    return isinstance(value, Mapping) and "data" in value and value.get("kind") in WEIGHT_KINDS


def _name(name: object, value: object) -> str:
    if not isinstance(name, str) or not isinstance(value, TENSOR_TYPES):
        raise LeavingRefused("the weights hold something else than named tensors", name)
    return name


def _patterns(field: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise _wrong(field, given)
    return tuple(given)


def _wrong(field: str, given: object) -> ConfigError:
    return ConfigError(
        where="privacy.json",
        field=f"NamedParts.{field}",
        got=given,
        expected='a list of patterns, for example ["input_block.*"]',
        remedy="Correct the site's local/privacy.json.",
    )
