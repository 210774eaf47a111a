"""The universal network (METHODS 4.1)."""

from __future__ import annotations

from collections.abc import Iterable

EMBEDDINGS = "embeddings."


def universal_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes of a universal network, in the order of the names of its tensors; () for another network."""
    return tuple(name.removeprefix(EMBEDDINGS) for name in names if name.startswith(EMBEDDINGS))
