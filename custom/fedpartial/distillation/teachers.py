"""A stored model as a teacher: what identifies it, what it knows, and how to get it into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """name: its site. key: of this version of its model. classes: what it segments. load: the network
    in evaluation or training mode, whose class_logits(image (N 1 H W D)) returns (N, len(classes), H, W, D) in the
    label space's order.
    """

    name: str
    key: str
    classes: tuple[str, ...]
    load: Callable[[], nn.Module]


def check_teachers(teachers: Sequence[Teacher], space: LabelSpace) -> tuple[Teacher, ...]:
    """The teachers in the order of their names.

    Raises ConfigError for none, for two of one name, and for classes that are not the label space's.
    """
    names = [teacher.name for teacher in teachers]
    if not names or len(set(names)) < len(names):
        raise _error("models", names, "at least one model, one of each site", "Store a site's model first.")
    for teacher in teachers:
        if not teacher.classes or set(teacher.classes) - set(space.classes):
            expected = f"some of {', '.join(space.classes)}"
            raise _error(
                f"classes of {teacher.name}", list(teacher.classes), expected, "Use the preset it was made with."
            )
    return tuple(sorted(teachers, key=lambda teacher: teacher.name))


def ordered_classes(teacher: Teacher, space: LabelSpace) -> tuple[str, ...]:
    """A teacher's classes in the order of its network's outputs."""
    return tuple(name for name in space.classes if name in teacher.classes)


def union_of_classes(teachers: Sequence[Teacher], space: LabelSpace) -> tuple[str, ...]:
    """C_t of Eq (2): what any teacher segments, in the order of the label space."""
    known = {name for teacher in teachers for name in teacher.classes}
    return tuple(name for name in space.classes if name in known)


def _error(field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="distillation", field=field, got=got, expected=expected, remedy=remedy)
