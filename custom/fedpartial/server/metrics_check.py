"""What the numbers of a site must be before they may touch model selection, curves and report.

Sites check what leaves them (flare/leaving_values.py); the server believes none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.withhold import read_summary
from fedpartial.training.reported import (
    ANNOTATED,
    COUNTS,
    FACT_NUMBERS,
    LARGEST,
    MODEL_NAME,
    NEEDED_NUMBERS,
    NOT_NEGATIVE,
    VALIDATION,
    WORDS,
    is_number,
)

FACTS = (*WORDS, *FACT_NUMBERS, ANNOTATED)
"""What a site says of itself beside its scores; any of it may be missing."""


class MetricsRefused(ValueError):
    """Numbers that a site reports cannot be used; the message names the site, the field and the reason."""


def check_update_metrics(site: str, metrics: object, classes: Collection[str]) -> None:
    """Raise MetricsRefused unless these are the metrics of an update, with a Dice of known classes in [0, 1].

    A number under a name of the method's own may stand beside the required ones.
    """
    try:
        given = _mapping("metrics", metrics)
        for name in (*NEEDED_NUMBERS, *WORDS, "val_dice", ANNOTATED):
            _expect(name in given, name, "nothing", "a value")
        for name, value in given.items():
            _check_field(name, value, classes)
        number, annotated = given["num_training"], given[ANNOTATED]
        _expect(number > 0, "num_training", number, "a number of at least 1: it may weigh the update")
        _expect(annotated, ANNOTATED, annotated, "a class with a training case")
    except _Fault as fault:
        raise MetricsRefused(f"update from {site} refused: {fault}") from None


def check_scores(site: str, answer: object, classes: Collection[str]) -> None:
    """Raise MetricsRefused unless this is a whole answer to an evaluation: scores of known classes, facts, no more."""
    try:
        given = _mapping("scores", answer)
        for name in ("validation", "testing"):
            _mapping(name, given.get(name))
        for name, value in given.items():
            _expect(name in (*SCORES, *FACTS), name, type(value).__name__, "no such field")
            if name in SCORES:
                _check_models(name, value, classes)
            else:
                _check_field(name, value, classes)
    except _Fault as fault:
        raise MetricsRefused(f"scores from {site} refused: {fault}") from None


class _Fault(Exception):
    """Field and reason; the site is added by whoever knows it."""


def _expect(good: object, field: object, got: object, expected: str) -> None:
    if not good:
        raise _Fault(f"{field!s:.100}: got {got!r:.100}; expected {expected}")


def _mapping(field: str, given: object) -> Mapping:
    _expect(isinstance(given, Mapping), field, type(given).__name__, "values by name")
    return given


def _check_models(field: str, given: object, classes: Collection[str]) -> None:
    """What a field of scores says of each model."""
    for model, value in _mapping(field, given).items():
        _expect(isinstance(model, str) and MODEL_NAME.fullmatch(model), f"{field}: model", model, "a known one")
        SCORES[field](f"{field}.{model}", value, classes)


def _check_field(name: object, value: object, classes: Collection[str]) -> None:
    if name in WORDS:
        _expect(isinstance(value, str) and value in WORDS[name], name, value, f"one of {', '.join(WORDS[name])}")
    elif name == "val_dice":
        _check_dice(name, value, classes)
    elif name == ANNOTATED:
        _each_class(name, value, classes, lambda one: type(one) is int and one == 1, "1: cases are not counted")
    elif name in ("val_cases", "val_found"):
        _check_counts(name, value, classes)
    else:
        _expect(is_number(value), name, value, "a finite number")
        _expect(name not in COUNTS or type(value) is int, name, value, "a whole number")
        _expect(name not in NOT_NEGATIVE or value >= 0, name, value, "a number of at least 0")


def _check_dice(field: str, given: object, classes: Collection[str]) -> None:
    _each_class(field, given, classes, lambda value: is_number(value) and 0 <= value <= 1, "a Dice from 0 to 1")


def _check_counts(field: str, given: object, classes: Collection[str]) -> None:
    _each_class(field, given, classes, _is_count, "a number of cases")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _each_class(field: str, given: object, classes: Collection[str], good: Callable, expected: str) -> None:
    for name, value in _mapping(field, given).items():
        _expect(name in classes, field, name, "a class of this run")
        _expect(good(value), f"{field}.{name}", value, expected)


def _check_cases(field: str, given: object, classes: Collection[str]) -> None:
    """Scores of cases, or a summary of them."""
    try:
        if isinstance(given, Mapping):
            read_summary(given, classes)
            return
        cases = [CaseScores.from_dict(case) for case in given]
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _Fault(f"{field}: {error!s:.300}") from None
    for case in cases:
        for scores in (case.dice, case.leakage):
            _check_dice(field, {name: value for name, value in scores.items() if value is not None}, classes)
        _expect(set(case.classes) <= set(classes), field, case.classes, "classes of this run")


SCORES: dict[str, Callable] = {
    VALIDATION["val_dice"]: _check_dice,
    VALIDATION["val_cases"]: _check_counts,
    VALIDATION["val_found"]: _check_counts,
    "testing": _check_cases,
}
"""Fields of an answer to an evaluation, each by model, and how the value of one model is checked."""
