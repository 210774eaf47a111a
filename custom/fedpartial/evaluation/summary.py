"""Summaries over cases: mean, sample standard deviation and n per class, never a hidden zero.

A value that is undefined in a case leaves the mean and the n. A class without any valid case has mean
None (MONAI's ``mean_batch`` would say 0.0), and a class no case annotates has no entry at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.labels import LabelSpace

METRICS = ("dice", "hd95_mm", "assd_mm")
COUNTED = ("missed", "false_positive")


def summarise(cases: Sequence[CaseScores], space: LabelSpace) -> dict[str, dict]:
    """Per class annotated by at least one case, in channel order:

    ``{"dice": {"mean", "sd", "n"}, "hd95_mm": {...}, "assd_mm": {...}, "leakage": mean share,
    "missed": number of cases, "false_positive": number of cases}``. Distances in mm. ``sd`` is the
    sample standard deviation (ddof 1), None below two values; ``mean`` is None when n is 0.
    """
    summaries = summarise_classes(cases)
    return {name: summaries[name] for name in space.classes if name in summaries}


def summarise_classes(cases: Sequence[CaseScores]) -> dict[str, dict]:
    """``summarise`` where no label space is known, in the order in which the cases name their classes."""
    names = dict.fromkeys(name for case in cases for name in case.status)
    return {name: _class_summary(cases, name) for name in names}


def macro_mean(summary: Mapping[str, Mapping], classes: Iterable[str] | None = None) -> float | None:
    """Mean over classes of the mean Dice; classes without a valid case are left out, None if none is left.

    ``classes`` restricts it, for example to the organs; names without an entry are left out too.
    """
    names = summary if classes is None else classes
    means = [summary[name]["dice"]["mean"] for name in names if name in summary]
    return statistics(means)["mean"]


def statistics(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """``{"mean", "sd", "n"}`` of the values that are defined."""
    valid = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(valid)) if valid else None,
        "sd": float(np.std(valid, ddof=1)) if len(valid) > 1 else None,
        "n": len(valid),
    }


def pooled_means(summaries: Iterable[Mapping[str, Mapping]], metric: str) -> dict[str, tuple[float, int]]:
    """Class -> mean over the cases of all summaries, and their number; undefined and withheld means are left out.

    Summaries give the same as the cases, and sites that send nothing else take part.
    """
    total: dict[str, tuple[float, int]] = {}
    for summary in summaries:
        for name, entry in summary.items():
            mean, n = entry[metric]["mean"], entry[metric]["n"]
            if mean is not None and n:
                so_far, cases = total.get(name, (0.0, 0))
                total[name] = (so_far + mean * n, cases + n)
    return {name: (value / n, n) for name, (value, n) in total.items()}


def _class_summary(cases: Sequence[CaseScores], name: str) -> dict:
    annotated = [case for case in cases if name in case.status]
    summary: dict = {metric: statistics(getattr(case, metric)[name] for case in annotated) for metric in METRICS}
    summary["leakage"] = statistics(case.leakage[name] for case in annotated)["mean"]
    for status in COUNTED:
        summary[status] = sum(case.status[name] == status for case in annotated)
    return summary
