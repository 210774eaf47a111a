"""An evaluation as plain values: every case, summaries by class, and how the numbers were made (evaluation.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from fedpartial import __version__
from fedpartial.evaluation.comparable import Lesions
from fedpartial.evaluation.formats import class_label, plural
from fedpartial.evaluation.metrics import EmptyClass
from fedpartial.evaluation.scored_case import ScoredCase
from fedpartial.evaluation.summary import summarise
from fedpartial.labels import LabelSpace

SCHEMA_FILE, SCHEMA_VERSION = "evaluation.schema", 1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was scored, and how. predictions: the folder's own name. model: the file that made them, where it is known.

    unscored: cases without any class to score. without_label: number of cases that have no reference.
    faults: what was wrong with the cases that are missing, without the names of folders.
    """

    site: str
    splits: tuple[str, ...]
    preset: str
    space: LabelSpace
    lesions: Lesions
    empty_class: EmptyClass
    predictions: str
    model: str | None
    cases: Sequence[ScoredCase]
    unscored: Sequence[str] = ()
    without_label: int = 0
    faults: Sequence[str] = field(default=())

    @property
    def classes(self) -> dict[str, dict]:
        """``summarise`` of every scored class."""
        return summarise([case.scores for case in self.cases], self.space)

    @property
    def organs(self) -> dict[str, dict]:
        """``summarise`` of organs with their lesions, of the cases that annotate both."""
        return summarise([case.organs for case in self.cases if case.organs is not None], self.space)

    @property
    def merged(self) -> dict[str, int]:
        """Organ -> number of cases in which its lesions count as the organ."""
        return _count(name for case in self.cases for name in case.task.comparable.merged)

    @property
    def unknown(self) -> dict[str, int]:
        """Annotated class that the predictions cannot name -> number of cases."""
        return _count(name for case in self.cases for name in case.task.comparable.unknown)

    def to_json(self) -> dict:
        """The content of evaluation.json. Raises ValueError where it breaks its schema."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "fedpartial": __version__,
            "site": self.site,
            "splits": list(self.splits),
            "preset": self.preset,
            "empty_class_policy": self.empty_class,
            "lesions": self.lesions,
            "predictions": self.predictions,
            "model": self.model,
            "notes": self.notes(),
            "classes": self.classes,
            "organs_with_lesions": self.organs,
            "cases": [_case(case) for case in self.cases],
            "unscored": list(self.unscored),
            "without_label": self.without_label,
            "faults": list(self.faults),
        }
        validate_evaluation(content)
        return content

    def notes(self) -> list[str]:
        """What a reader must know of the numbers, one sentence each."""
        found = [POLICY[self.empty_class]]
        why = "reference or predictions do not tell them apart" if self.lesions == "auto" else "--merge-lesions"
        found += [f"{names}: lesions count as the organ in {n} ({why})." for n, names in _by_number(self.merged)]
        found += [
            f"{names}: annotated in {n}, but the predictions cannot name it; not scored."
            for n, names in _by_number(self.unknown)
        ]
        if self.unscored:
            found.append(f"{plural(len(self.unscored), 'case')} without a class to score: {_some(self.unscored)}.")
        if self.without_label:
            found.append(f"{plural(self.without_label, 'case')} of the datalist without a label: left out.")
        if self.faults:
            found.append(f"{plural(len(self.faults), 'fault')} in predictions or references: those cases are missing.")
        return found


POLICY = {
    "exclude": "A class that is predicted but not in the reference of a case leaves the mean and n; it is counted as "
    "a false positive (--empty-class exclude).",
    "zero": "A class that is predicted but not in the reference of a case counts with Dice 0 (--empty-class zero).",
}


def _by_number(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """("6 cases", "liver, kidney") for every number of cases."""
    for number in dict.fromkeys(counts.values()):
        yield plural(number, "case"), ", ".join(class_label(name) for name, n in counts.items() if n == number)


def _some(names: Sequence[str], number: int = 5) -> str:
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def _count(names) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


def _case(case: ScoredCase) -> dict:
    task = case.task
    return {
        "case": task.name,
        "site": task.site,
        "split": task.split,
        "prediction": task.prediction.name,
        "reference": task.reference.name,
        "merged": list(task.comparable.merged),
        "scores": case.scores.to_dict(),
        "organs_with_lesions": None if case.organs is None else case.organs.to_dict(),
    }


@cache
def load_schema() -> dict:
    """The JSON schema (draft 2020-12) of evaluation.json."""
    text = resources.files("fedpartial.evaluation").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    return json.loads(text)


def validate_evaluation(content: Mapping) -> None:
    """Raise ValueError naming every place where ``content`` leaves the schema."""
    from jsonschema import Draft202012Validator

    found = Draft202012Validator(load_schema()).iter_errors(content)
    if faults := [f"/{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]:
        raise ValueError("evaluation.json breaks its contract:\n" + "\n".join(f"  - {fault}" for fault in faults))
