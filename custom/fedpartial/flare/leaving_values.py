"""The numbers and words that a site reports: every known field and its shape. Anything else is refused.

The names stand in training/reported.py; a site that has not got a new one keeps it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedpartial import presets
from fedpartial.errors import ConfigError
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.withhold import read_summary
from fedpartial.flare.leaving import LeavingRefused
from fedpartial.training.reported import (
    ANNOTATED,
    FACT_NUMBERS,
    MODEL_NAME,
    UPDATE_NUMBERS,
    VALIDATION,
    WORDS,
    is_number,
)


def check_update_metrics(given: object) -> None:
    """LeavingRefused unless these are the metrics of an update (SiteLearner.train)."""
    checks: dict[str, Callable] = dict.fromkeys(UPDATE_NUMBERS, check_number)
    by_class = dict.fromkeys(VALIDATION, check_by_class) | {ANNOTATED: check_annotated}
    _check_fields(given, checks | WORD_CHECKS | by_class)


def check_scores(given: object) -> None:
    """LeavingRefused unless these are the scores of models (SiteLearner.validate)."""
    by_model = dict.fromkeys(VALIDATION.values(), _each_model(check_by_class))
    by_model["testing"] = _each_model(check_cases_or_summary)
    facts = dict.fromkeys(FACT_NUMBERS, check_number) | {ANNOTATED: check_annotated}
    _check_fields(given, facts | WORD_CHECKS | by_model)


def check_number(name: str, value: object) -> None:
    if not is_number(value):
        raise LeavingRefused(f"{name}: got a {type(value).__name__}; expected a finite number")


def check_by_class(name: str, given: object) -> None:
    """Class -> number."""
    known = known_classes()
    if not isinstance(given, Mapping):
        raise LeavingRefused(f"{name}: got a {type(given).__name__}; expected numbers by class")
    for key, value in given.items():
        if key not in known:
            raise LeavingRefused(f"{name}: a name that is no class", key)
        check_number(name, value)


def check_annotated(name: str, given: object) -> None:
    """Class -> 1: which classes, not how many cases."""
    check_by_class(name, given)
    if any(value != 1 for value in given.values()):
        raise LeavingRefused(f"{name}: a number other than 1")


def check_cases_or_summary(name: str, given: object) -> None:
    """Scores of cases, or a summary of them."""
    try:
        if isinstance(given, Mapping):
            read_summary(given, sorted(known_classes()))
            return
        for scores in (CaseScores.from_dict(case) for case in given):
            for field in ("dice", "hd95_mm", "assd_mm", "leakage"):
                check_by_class(name, {k: v for k, v in getattr(scores, field).items() if v is not None})
            check_by_class(name, dict.fromkeys(scores.status, 0))
    except LeavingRefused:
        raise
    except (ConfigError, ValueError, TypeError, AttributeError):
        raise LeavingRefused(f"{name}: neither scores of cases nor a summary of them") from None


def known_classes() -> set[str]:
    """The class names of all presets."""
    return {name for preset in presets.PRESETS.values() for name in preset.label_space.classes}


def _check_fields(given: object, checks: Mapping[str, Callable]) -> None:
    if not isinstance(given, Mapping):
        raise LeavingRefused(f"got a {type(given).__name__} in place of metrics")
    for name, value in given.items():
        if name not in checks:
            raise LeavingRefused("unknown metric", name)
        checks[name](name, value)


def _each_model(check: Callable) -> Callable:
    def check_all(name: str, given: object) -> None:
        if not isinstance(given, Mapping):
            raise LeavingRefused(f"{name}: got a {type(given).__name__}; expected values by model")
        for model, value in given.items():
            if not isinstance(model, str) or not MODEL_NAME.fullmatch(model):
                raise LeavingRefused(f"{name}: a name that is no model of the final evaluation", model)
            check(name, value)

    return check_all


def _check_word(name: str, value: object) -> None:
    if not isinstance(value, str) or value not in WORDS[name]:
        raise LeavingRefused(f"{name}: expected one of {', '.join(WORDS[name])}", value)


WORD_CHECKS: dict[str, Callable] = dict.fromkeys(WORDS, _check_word)
