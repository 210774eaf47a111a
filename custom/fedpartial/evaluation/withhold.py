"""Summaries that give away no single case: what few cases stand behind is withheld.

A withheld statistic has ``n`` None, which is different from an undefined one (``n`` 0). Two numbers can be
solved for two unknown cases, and a missed case is known to have Dice 0, so not n but the number of cases in which
the class was found decides, and the standard deviation of two of them is withheld too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from fedpartial.errors import check_keys
from fedpartial.evaluation.summary import COUNTED, METRICS

WITHHELD = {"mean": None, "sd": None, "n": None}
STATISTICS = tuple(WITHHELD)
ENTRY = (*METRICS, "leakage", *COUNTED)
CASES_OF_AN_SD = 3


def is_withheld(entry: Mapping) -> bool:
    """Whether a site gave nothing of a class; ``entry`` is one class of a summary."""
    return entry["dice"]["n"] is None


def withhold(summary: Mapping[str, Mapping], min_cases: int) -> dict[str, dict]:
    """``summary`` (of ``summarise``) without the numbers behind which fewer than ``min_cases`` cases stand."""
    return {name: _entry(entry, min_cases) for name, entry in summary.items()}


def may_leave(cases: int, found: int, min_cases: int) -> bool:
    """Whether a mean of ``cases`` Dice scores, ``found`` of them above 0, may leave. That all are 0 is no secret."""
    return cases >= min_cases and not 0 < found < min_cases


def _entry(entry: Mapping, min_cases: int) -> dict:
    cases = entry["dice"]["n"]
    found = cases - entry["missed"]
    if not may_leave(cases, found, min_cases):
        return {**{metric: dict(WITHHELD) for metric in METRICS}, "leakage": None, **dict.fromkeys(COUNTED)}
    distances = {metric: _statistic(entry[metric], entry[metric]["n"], min_cases) for metric in METRICS[1:]}
    return {**entry, "dice": _statistic(entry["dice"], found, min_cases), **distances}


def _statistic(given: Mapping, unknown: int, min_cases: int) -> dict:
    """``unknown``: the number of values that nobody could guess from the counts."""
    if 0 < unknown < min_cases:
        return dict(WITHHELD)
    if 0 < unknown < CASES_OF_AN_SD:
        return {**given, "sd": None}
    return dict(given)


def read_summary(given: object, classes: Iterable[str]) -> dict[str, dict]:
    """A summary that a site sent, in the order of ``classes``; ValueError unless it is exactly one."""
    order = list(classes)
    check_keys(given, order, (), where="summary of a site")
    for name, entry in given.items():
        _check_entry(name, entry)
    return {name: given[name] for name in order if name in given}


def _check_entry(name: str, entry: object) -> None:
    check_keys(entry, ENTRY, ENTRY, where=f"summary of {name}")
    for metric in METRICS:
        check_keys(entry[metric], STATISTICS, STATISTICS, where=f"{metric} of {name}")
        _check_count(f"{metric} of {name}", entry[metric]["n"])
        for field in ("mean", "sd"):
            _check_number(f"{field} {metric} of {name}", entry[metric][field], limit=math.inf)
    for bounded in (entry["leakage"], entry["dice"]["mean"]):
        _check_number(f"leakage and mean Dice of {name}", bounded, limit=1.0)
    for status in COUNTED:
        _check_count(f"{status} of {name}", entry[status])


def _check_count(what: str, value: object) -> None:
    if value is not None and not (type(value) is int and 0 <= value < 2**31):
        raise ValueError(f"{what}: got a {type(value).__name__}; expected a number of cases")


def _check_number(what: str, value: object, *, limit: float) -> None:
    if value is not None and not (type(value) in (int, float) and math.isfinite(value) and 0 <= value <= limit):
        raise ValueError(f"{what}: expected a number from 0 to {limit}, or None")
