"""Scores of methods over seeds: the mean over cases of every seed, then mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.record import EXTERNAL_ORGANS
from fedpartial.evaluation.summary import pooled_means, statistics

METRICS = ("dice", "hd95_mm")
LOWER_IS_BETTER = ("hd95_mm",)
DIGITS = {"dice": 3, "hd95_mm": 1}
"""Digits that a reader sees."""

Groups = Mapping[str, Sequence[ComparedRun]]


def score_set(groups: Groups, which: str) -> dict:
    """Scores of one set, plain values: ``{"classes": [name, ...], "merged": [method, ...], metric: {method:
    {"classes": {name: {"mean", "sd", "seeds", "n"}}, "macro": {"mean", "sd", "seeds", "by_seed": {seed: value}},
    "num_classes": int}}}``.

    mean, sd: over seeds (ddof 1; None below two) of the mean over cases. n: cases behind one seed's mean, the fewest
    of any seed. macro: mean over the num_classes classes of the set that the method was trained for; a seed that lacks
    one has None. merged: methods whose organs contain their lesions where another method keeps them apart.
    """
    scores = {metric: _score_metric(groups, which, metric) for metric in METRICS}
    found = {name for method in scores["dice"].values() for name in method["classes"]}
    # With lesions counted as organs everywhere, a method without lesion classes means the same by its classes.
    merged = [m for m, group in groups.items() if which != EXTERNAL_ORGANS and all(run.merged for run in group)]
    space = next(iter(groups.values()))[0].space
    return {
        "classes": sorted(found, key=lambda name: space.index(name)),
        "merged": merged if len(merged) < len(groups) else [],
        **scores,
    }


def _score_metric(groups: Groups, which: str, metric: str) -> dict[str, dict]:
    means = {
        method: {run.seed: pooled_means(run.summaries(which), metric) for run in group}
        for method, group in groups.items()
    }
    names = list(dict.fromkeys(n for seeds in means.values() for classes in seeds.values() for n in classes))
    return {
        method: _score_method(by_seed, names, _expected(groups[method], which, names))
        for method, by_seed in means.items()
    }


def _expected(group: Sequence[ComparedRun], which: str, names: Sequence[str]) -> set[str]:
    """Classes without which a method has no mean over classes: all that it was trained for. Organs that contain their
    lesions are other structures, so that these are missed as well."""
    known = {name for run in group for summary in run.summaries(which) for name in summary}
    known = known.union(*(run.classes for run in group))
    merged = all(run.merged for run in group)
    return {name for name in names if name in known or (merged and name in group[0].space.lesions)}


def _score_method(by_seed: Mapping[int, Mapping], names: Sequence[str], expected: set[str]) -> dict:
    """``by_seed``: seed -> class -> (mean over cases, n). ``names``: all classes of the set; ``expected``: those that
    the mean over classes needs."""
    classes = {}
    for name in names:
        found = [classes_of_seed[name] for classes_of_seed in by_seed.values() if name in classes_of_seed]
        if found:
            classes[name] = _over_seeds([mean for mean, _ in found]) | {"n": min(n for _, n in found)}
    complete = {
        seed: statistics(m for m, _ in given.values())["mean"] if given.keys() >= expected else None
        for seed, given in by_seed.items()
    }
    return {
        "classes": classes,
        "macro": _over_seeds(complete.values()) | {"by_seed": {str(seed): value for seed, value in complete.items()}},
        "num_classes": len(classes),
    }


def _over_seeds(values) -> dict:
    found = statistics(values)
    return {"mean": found["mean"], "sd": found["sd"], "seeds": found["n"]}


def best(scores: Mapping, metric: str, name: str | None) -> set[str]:
    """The methods with the best mean of a class (None: the macro mean), as it is shown.

    Only methods whose classes mean the same compete, for the macro mean those with all classes. A method that missed
    a class in more cases than another has its distances from fewer cases, the easy ones, so only methods with the most
    cases can have the best distance, and nobody has the best macro mean unless all that compete have the same number
    of cases in every class.
    """
    entries = {method: _entry(values, name) for method, values in scores[metric].items()}
    entries = {m: e for m, e in entries.items() if e and e["mean"] is not None and m not in scores["merged"]}
    if name is None:
        entries = {method: entry for method, entry in entries.items() if has_all_classes(scores, metric, method)}
    if metric in LOWER_IS_BETTER:
        entries = _with_most_cases(entries) if name is not None else _with_equal_cases(entries, scores[metric])
    shown = {method: round(entry["mean"], DIGITS[metric]) for method, entry in entries.items()}
    choose = min if metric in LOWER_IS_BETTER else max
    if len(set(shown.values())) < 2:  # none is better than another
        return set()
    return {method for method, value in shown.items() if value == choose(shown.values())}


def has_all_classes(scores: Mapping, metric: str, method: str) -> bool:
    """Whether a method has every class that any method has a mean of."""
    found = {name for values in scores[metric].values() for name in values["classes"]}
    return scores[metric][method]["classes"].keys() == found


def _with_most_cases(entries: Mapping[str, Mapping]) -> dict[str, Mapping]:
    most = max((entry["n"] for entry in entries.values()), default=0)
    return {method: entry for method, entry in entries.items() if entry["n"] == most}


def _with_equal_cases(entries: Mapping[str, Mapping], scores: Mapping[str, Mapping]) -> Mapping[str, Mapping]:
    """All, or none where the methods differ in their number of cases of any class."""
    counts = [{name: entry["n"] for name, entry in scores[method]["classes"].items()} for method in entries]
    return entries if all(count == counts[0] for count in counts) else {}


def _entry(values: Mapping, name: str | None) -> Mapping | None:
    return values["macro"] if name is None else values["classes"].get(name)
