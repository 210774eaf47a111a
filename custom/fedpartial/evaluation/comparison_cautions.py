"""What a reader of a comparison must not overlook: where methods did not have the same chances, or tests no power."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedpartial.evaluation.cautions import rounds_of_all
from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.comparison_sets import ALL_CASES, TITLES
from fedpartial.evaluation.formats import class_label, plural, short_commit
from fedpartial.evaluation.patients import keyed_cases, unmatched
from fedpartial.evaluation.record import EXTERNAL
from fedpartial.evaluation.significance import ALPHA, PairedTest, powerless
from fedpartial.evaluation.withhold import is_withheld

ENOUGH_SEEDS = 3
_SAME = {
    "commits": "Not all runs are from the same commit",
    "presets": "Not all runs have the same preset",
    "devices": "Not all runs trained on the same kind of device, so their times do not compare",
    "precisions": "Not all runs trained in the same precision",
    "policies": "Not all runs treat a class that is predicted but not in the reference alike",
    "steps": "Not all runs did the same number of local steps (rounds x steps per round, and fine-tuning)",
    "seeds": "Not all methods have the same seeds",
}


def find_cautions(
    groups: Mapping[str, Sequence[ComparedRun]],
    scores: Mapping[str, Mapping],
    costs: Mapping[str, Mapping],
    tests: Mapping[str, Sequence[PairedTest]],
) -> list[str]:
    """Sentences on a comparison, the gravest first; [] if there is nothing to say."""
    runs = [run for group in groups.values() for run in group]
    return [
        *_differences(costs),
        *_unknown_commits(costs),
        *_uncommitted(costs),
        *_not_the_same_patients(runs),
        *_absent_sites(runs),
        *_few_seeds(groups),
        *_withheld(runs),
        *_without_cases(runs),
        *_merged(groups),
        *_other_classes(scores),
        *_powerless(tests),
    ]


def _differences(costs: Mapping[str, Mapping]) -> Iterator[str]:
    for field, sentence in _SAME.items():
        by_value: dict[str, list[str]] = {}
        for method, cost in costs.items():
            by_value.setdefault(", ".join(_shown(field, value) for value in cost[field]), []).append(method)
        if len(by_value) > 1 or (field != "seeds" and any(len(cost[field]) > 1 for cost in costs.values())):
            yield f"{sentence}: {'; '.join(f'{value} ({_list(methods)})' for value, methods in by_value.items())}."


def _shown(field: str, value: object) -> str:
    return short_commit(value) if field == "commits" else str(value)


def _list(methods: Sequence[str], most: int = 4) -> str:
    rest = len(methods) - most
    return "; ".join(methods) if rest <= 0 else f"{'; '.join(methods[:most])} and {rest} more"


def _unknown_commits(costs: Mapping[str, Mapping]) -> Iterator[str]:
    if all(cost["commits"] == [None] for cost in costs.values()):
        yield "No run knows its commit, so nothing shows that all ran the same code."


def _uncommitted(costs: Mapping[str, Mapping]) -> Iterator[str]:
    found = [method for method, cost in costs.items() if any(str(commit).endswith("+") for commit in cost["commits"])]
    if found:
        yield f"The code had changes that are in no commit, so nobody can make these runs again: {_list(found)}."


def _not_the_same_patients(runs: Sequence[ComparedRun]) -> Iterator[str]:
    first = max(runs, key=lambda run: len(run.classes))
    known = keyed_cases(first, ALL_CASES)
    for run in runs:
        groups = unmatched(known, keyed_cases(run, ALL_CASES))
        if groups:
            organs = ", ".join(sorted({class_label(name) for _, names in groups for name in names or (EXTERNAL,)}))
            yield (
                f"The cases ({organs}) of {run.method}, seed {run.seed}, are not the same patients as those of "
                f"{first.method}, seed {first.seed}; such cases take no part in tests."
            )


def _absent_sites(runs: Sequence[ComparedRun]) -> Iterator[str]:
    for run in runs:
        rounds = rounds_of_all(run.report)
        absent = sum(site not in entry["sites"] for site in run.report["sites"] for entry in rounds)
        if absent and any(entry["sites"] for entry in rounds):
            yield f"In {run.method}, seed {run.seed}, sites were absent from rounds ({absent} times)."


def _few_seeds(groups: Mapping[str, Sequence[ComparedRun]]) -> Iterator[str]:
    few = [method for method, group in groups.items() if len(group) < ENOUGH_SEEDS]
    if few:
        yield f"Fewer than {plural(ENOUGH_SEEDS, 'seed')}: {_list(few)}. Their spread over seeds says little."


def _withheld(runs: Sequence[ComparedRun]) -> Iterator[str]:
    found = {
        f"{class_label(name)} of {site}"
        for run in runs
        for site, summary in run.report["sites"].items()
        for name, entry in summary.items()
        if is_withheld(entry)
    }
    if found:
        yield f"Withheld by sites, and missing from the means over sites: {', '.join(sorted(found))}."


def _without_cases(runs: Sequence[ComparedRun]) -> Iterator[str]:
    sites = {site for run in runs for site in run.report["sites"] if site not in run.report["cases"]}
    if sites:
        yield f"Sent summaries without cases, so in the tables but not in the tests: {', '.join(sorted(sites))}."


def _merged(groups: Mapping[str, Sequence[ComparedRun]]) -> Iterator[str]:
    merged = [method for method, group in groups.items() if group[0].merged]
    if merged and len(merged) < len(groups):
        yield (
            f"The organs of {_list(merged)} contain their lesions: compare with the others only where lesions are "
            f"counted as their organ."
        )


def _other_classes(scores: Mapping[str, Mapping]) -> Iterator[str]:
    """Said of the first set in which rows differ; in the others it is the same rows."""
    for found in scores.values():
        by_classes = _by_classes(found)
        if len(by_classes) > 1:
            rows = "; ".join(f"{names} ({_list(methods)})" for names, methods in by_classes.items())
            yield f"Means of rows with different classes are not comparable, nor are their validation curves: {rows}."
            return


def _by_classes(scores: Mapping) -> dict[str, list[str]]:
    """Classes -> the methods that have a mean over them."""
    found: dict[str, list[str]] = {}
    for method, values in scores["dice"].items():
        if values["macro"]["mean"] is not None:
            names = ", ".join(class_label(name) for name in scores["classes"] if name in values["classes"])
            found.setdefault(names, []).append(method)
    return found


def _powerless(tests: Mapping[str, Sequence[PairedTest]]) -> Iterator[str]:
    for which, found in tests.items():
        if powerless(found):
            smallest = min(test.smallest_p for test in found)
            yield (
                f"No test can be significant for the {TITLES[which]}: with {max(test.n for test in found)} cases "
                f"Wilcoxon's p is at least {smallest:.3g}, times {plural(len(found), 'pair')} not below {ALPHA}."
            )
