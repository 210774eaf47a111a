"""What is wrong with a data set: one fault for each thing, in the shape of every user's error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpartial.errors import DataFaults


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with one file. ``kind``: a few words by which faults of many files are counted."""

    file: Path
    field: str
    got: object
    expected: str
    remedy: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: got {self.got}; expected {self.expected}. {self.remedy}"


def data_fault(file: Path, field: str, got: object, expected: str, remedy: str, kind: str) -> Fault:
    return Fault(file=file, field=field, got=got, expected=expected, remedy=remedy, kind=kind)


def raise_for_faults(faults: Sequence[Fault]) -> None:
    """Raise DataFaults where there are any."""
    if faults:
        raise DataFaults(faults)
