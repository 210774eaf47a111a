"""Which case of one run is the same patient as which case of another, although reports number cases and name none.

A case of the external set is known by its number. A case of a site is known by the organs it annotates and its
running number among the cases that annotate the same, sites in alphabetical order. So a site that pools the cases of
all others, in their order, is matched with them, and a run that knows no lesions with one that does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.record import EXTERNAL_NAMES
from fedpartial.labels import LabelSpace

Key = tuple[bool, tuple[str, ...], int]
FOUND_IN_REFERENCE = ("scored", "missed")


def keyed_cases(run: ComparedRun, which: str) -> dict[Key, Mapping]:
    """(whether external, annotated organs, () for external ones, running number) -> case of report.json."""
    counter: Counter = Counter()
    keyed = {}
    for place, cases in run.cases(which).items():
        external = place in EXTERNAL_NAMES
        for case in cases:
            group = (external, () if external else _organs(case["status"], run.space))
            counter[group] += 1
            keyed[(*group, counter[group])] = case
    return keyed


def _organs(names: Iterable[str], space: LabelSpace) -> tuple[str, ...]:
    """Names of the organs, without their lesions, in alphabetical order."""
    return tuple(sorted({space.merged.channels[space.merged.index(name)] for name in names}))


def paired_values(a: Sequence[ComparedRun], b: Sequence[ComparedRun], which: str) -> list[tuple[float, float]]:
    """For every patient both methods score: the mean over their common classes of the Dice, each a mean over the
    seeds both have.

    Groups of cases that cannot be the same patients in all these runs are left out (``unmatched``).
    """
    other = {run.seed: run for run in b}
    pairs = [(keyed_cases(run, which), keyed_cases(other[run.seed], which)) for run in a if run.seed in other]
    if not pairs:
        return []
    first = pairs[0][0]
    strange = {group for pair in pairs for keyed in pair for group in unmatched(first, keyed)}
    keys = sorted({key for left, right in pairs for key in left.keys() & right.keys() if key[:2] not in strange})
    values = (_values([(left[k], right[k]) for left, right in pairs if k in left and k in right]) for k in keys)
    return [value for value in values if value is not None]


def unmatched(left: Mapping[Key, Mapping], right: Mapping[Key, Mapping]) -> set[tuple]:
    """Groups (external, organs) that both runs have with other numbers of cases, or other structures in them."""
    lefts, rights = _groups(left), _groups(right)
    return {group for group in lefts.keys() & rights.keys() if not _alike(lefts[group], rights[group])}


def _groups(keyed: Mapping[Key, Mapping]) -> dict[tuple, list[Mapping]]:
    """(external, organs) -> its cases by their running number, in which order ``keyed_cases`` makes them."""
    groups: dict[tuple, list[Mapping]] = {}
    for key, case in keyed.items():
        groups.setdefault(key[:2], []).append(case)
    return groups


def _alike(left: Sequence[Mapping], right: Sequence[Mapping]) -> bool:
    return len(left) == len(right) and all(_same(*cases) for cases in zip(left, right, strict=True))


def _same(left: Mapping, right: Mapping) -> bool:
    """Whether the references of two cases contain the same of their common classes."""
    common = left["status"].keys() & right["status"].keys()
    present = [{n for n in common if case["status"][n] in FOUND_IN_REFERENCE} for case in (left, right)]
    return present[0] == present[1]


def _values(cases: Sequence[tuple[Mapping, Mapping]]) -> tuple[float, float] | None:
    """``cases``: one patient's (case of a, case of b) for each seed."""
    names = dict.fromkeys(name for left, right in cases for name in left["dice"] if name in right["dice"])
    by_class = [_over_seeds([(left["dice"].get(n), right["dice"].get(n)) for left, right in cases]) for n in names]
    defined = [value for value in by_class if value is not None]
    if not defined:
        return None
    return _means(defined)


def _over_seeds(dice: Sequence[tuple]) -> tuple[float, float] | None:
    """Means over the seeds in which both methods have a Dice."""
    both = [(a, b) for a, b in dice if a is not None and b is not None]
    return _means(both) if both else None


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of both sides; without the deviations of ``statistics``, which took half of the time of a comparison's tests."""
    left, right = np.mean(pairs, axis=0)
    return float(left), float(right)
