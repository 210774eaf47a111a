"""The one shape of every error a user can cause: where, field, got, expected, remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConfigError(ValueError):
    """A value given by the user is wrong.

    The message names where the value stands (a file or a component), the field, what was found,
    what would have been right, and what to do about it.
    """

    def __init__(self, *, where: str, field: str, got: object, expected: str, remedy: str):
        self.where, self.field, self.got, self.expected, self.remedy = where, field, got, expected, remedy
        super().__init__(f"{where}: {field}: got {got!r}; expected {expected}. {remedy}")

    def __reduce__(self):
        """Keyword-only arguments survive being sent between worker processes."""
        return _rebuild, (self.where, self.field, self.got, self.expected, self.remedy)


def _rebuild(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)


def renamed(error: ConfigError, old: str, new: str) -> ConfigError:
    """The same error with another name for a path: what was checked is a copy, or the path is nobody's business."""
    parts = {part: value.replace(old, new) if isinstance(value, str) else value for part, value in vars(error).items()}
    return ConfigError(**parts)


class DataFaults(ValueError):
    """Everything that is wrong with one data set, reported in one pass."""

    def __init__(self, faults: Sequence[object]):
        self.faults = list(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{len(self.faults)} fault(s) in the data set:\n{lines}")

    def __reduce__(self):
        return DataFaults, (self.faults,)


class NoSpaceLeft(RuntimeError):
    """A disk, or a share of it, is full. ``what`` is for everyone; the folder is named to the site only."""

    def __init__(self, what: str, folder: object):
        self.what, self.folder = what, str(folder)
        super().__init__(f"no space left for {what} in {folder}. Free some, or choose another place for them.")

    def __reduce__(self):
        return NoSpaceLeft, (self.what, self.folder)


@contextmanager
def needs_space(what: str, folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk into NoSpaceLeft; other errors pass."""
    try:
        yield
    except OSError as error:
        # NumPy reports a file that it could not write to the end without an errno.
        if error.errno in FULL or (error.errno is None and "requested and" in str(error)):
            raise NoSpaceLeft(what, folder) from error
        raise


def check_keys(given: object, allowed: Sequence[str], required: Sequence[str], *, where: str) -> None:
    """Refuse unknown and missing keys of a JSON object before any of its values is looked at."""
    if not isinstance(given, dict):
        raise ConfigError(
            where=where,
            field="(file)",
            got=type(given).__name__,
            expected="a JSON object",
            remedy="Write one object in braces.",
        )
    for key in given:
        if key not in allowed:
            raise ConfigError(
                where=where,
                field=key,
                got="an unknown key",
                expected=f"one of {', '.join(allowed)}",
                remedy="Correct its spelling or remove it.",
            )
    for key in required:
        if key not in given:
            raise ConfigError(
                where=where,
                field=key,
                got="nothing",
                expected="a value",
                remedy=f"Add the key {key!r}.",
            )


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """For ``json.loads``, which keeps the last of two equal keys: two meanings of one name must not pass."""
    given = dict(pairs)
    if len(given) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return given
