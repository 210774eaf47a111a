"""Predictions of somebody's model in a folder: which file belongs to which case, and what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedpartial.data.datalist import Case
from fedpartial.data.faults import Fault, data_fault
from fedpartial.data.file_names import LABELS, SUFFIXES, stem_of
from fedpartial.data.label_names import read_facts
from fedpartial.errors import ConfigError
from fedpartial.labels import BACKGROUND

LABELS_OPTION = "--prediction-labels"


def case_name(image: Path) -> str:
    """The image's file name without .nii.gz."""
    return stem_of(image.name)


def case_names(cases: Sequence[Case]) -> list[str]:
    """A name for each case: its image's, and where several images have that name (KiTS) the folders' before it."""
    names = [case_name(case.image) for case in cases]
    for depth in range(1, max((len(case.image.parts) for case in cases), default=0)):
        if len({name.casefold() for name in names}) == len(names):
            break
        folders = ("_".join(case.image.parent.parts[-depth:]).strip("/") for case in cases)
        names = [f"{folder}_{case_name(case.image)}" for folder, case in zip(folders, cases, strict=True)]
    return names


def candidates(case: Case, name: str) -> list[str]:
    """File names under which a case's prediction may lie, the first that exists is taken."""
    plain = name == case_name(case.image)
    stems = [f"{name}{LABELS}", name, case_name(case.label) if plain else case.image.parent.name]
    return [f"{stem}{suffix}" for stem in dict.fromkeys(stems) for suffix in SUFFIXES]


def find_prediction(folder: Path, case: Case, name: str) -> Path | Fault:
    """The prediction of a case; the image and the reference themselves are none."""
    found = [path for file in candidates(case, name) if (path := folder / file).is_file()]
    own = {path: _own_file(path, case) for path in found}
    if foreign := [path for path in found if own[path] is None]:
        return foreign[0]
    if found:
        return data_fault(found[0], name, own[found[0]], *_NOT_ITSELF)
    files = [file for file in candidates(case, name) if file.endswith(SUFFIXES[0])]
    remedy = f"Predict {case.image.name}, or rename its prediction."
    return data_fault(folder, name, "no prediction", f"one of {', '.join(files)}", remedy, "no prediction")


_NOT_ITSELF = ("a prediction", "Give --predictions the folder that holds the predictions.", "no prediction of its own")
"""Expected, remedy and kind of a fault."""


def _own_file(path: Path, case: Case) -> str | None:
    """What a file is that belongs to the case itself."""
    of_case = {"the reference itself": case.label, "the image itself": case.image}
    return next((what for what, own in of_case.items() if own.exists() and path.samefile(own)), None)


def read_meaning(path: Path) -> dict | None:
    """What the header of a prediction says: {"labels": {value: class}, "preset": name, ...}; None for a foreign file.

    Raises ConfigError where the file cannot be read.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        facts = read_facts(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        got, remedy = f"{type(error).__name__}: {error}".replace("\n", " "), "Predict the case again, or copy it again."
        raise ConfigError(
            where=str(path), field="header", got=got, expected="a readable NIfTI file", remedy=remedy
        ) from error
    return None if facts is None else {**facts, "labels": {int(value): name for value, name in facts["labels"].items()}}


def named_values(text: str) -> dict[int, str]:
    """ "1=liver,2=spleen" as value -> class. Raises ConfigError for anything else."""
    found: dict[int, str] = {}
    for part in text.split(","):
        value, separator, name = (piece.strip() for piece in part.partition("="))
        if not separator or not value.isascii() or not value.isdigit() or not name or int(value) in found:
            expected, remedy = "value=class, separated by commas, each value once", "For example 1=liver,2=liver_tumor."
            raise ConfigError(where=LABELS_OPTION, field="labels", got=part, expected=expected, remedy=remedy)
        found[int(value)] = name
    return found


def unnamed(path: Path) -> Fault:
    """The fault of a prediction that does not say what its values mean."""
    got, expected = "no class names in its header", f"class names in the header, or {LABELS_OPTION}"
    remedy = f"Say what its values mean, for example {LABELS_OPTION} 1=liver,2=liver_tumor."
    return data_fault(path, "labels", got, expected, remedy, "predictions without class names")


def class_names(labels: Mapping[int, str]) -> list[str]:
    """The classes of a label map, without background."""
    return [name for name in dict.fromkeys(labels.values()) if name != BACKGROUND]
