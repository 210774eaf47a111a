"""Compare methods by the reports of their runs: scores over seeds, paired tests over patients, costs, curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from fedpartial.errors import ConfigError
from fedpartial.evaluation.compared_run import ComparedRun, by_method, shown_sets, with_adapted
from fedpartial.evaluation.comparison_cautions import find_cautions
from fedpartial.evaluation.comparison_costs import costs, curve
from fedpartial.evaluation.comparison_scores import score_set
from fedpartial.evaluation.comparison_sets import ALL_CASES
from fedpartial.evaluation.significance import PairedTest, compare_pairs

__all__ = ["ComparedRun", "Comparison", "compare"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a comparison says.

    methods: in the order given. scores: set -> ``score_set``, only ``shown_sets``. tests: set (and "all",
    external and sites together) -> one test per pair of methods. costs: method -> ``costs``. curves: method ->
    ``curve``, [] for adapted models, whose run has it. cautions: sentences for the reader. adapted: the methods that
    are models which sites have adapted to their own data.
    """

    title: str
    methods: tuple[str, ...]
    scores: Mapping[str, Mapping]
    tests: Mapping[str, tuple[PairedTest, ...]]
    costs: Mapping[str, Mapping]
    curves: Mapping[str, list[dict]]
    cautions: tuple[str, ...]
    adapted: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Plain dicts and lists for strict JSON: no NaN, undefined numbers are None."""
        return asdict(self)


def compare(runs: Iterable[ComparedRun], *, title: str) -> Comparison:
    """Compare runs by method, adapted models as methods of their own. ConfigError without runs, or when a method has
    a seed twice."""
    groups = by_method(row for run in runs for row in with_adapted(run))
    if not groups:
        raise ConfigError(
            where="comparison",
            field="runs",
            got=0,
            expected="at least one finished run",
            remedy="Finish a run first; only runs with a report can be compared.",
        )
    sets = shown_sets([run for group in groups.values() for run in group])
    scores = {which: score_set(groups, which) for which in sets}
    tests = {which: tuple(compare_pairs(groups, which)) for which in (*sets, ALL_CASES)}
    cost = {method: costs(group) for method, group in groups.items()}
    return Comparison(
        title=title,
        methods=tuple(groups),
        scores=scores,
        tests={which: found for which, found in tests.items() if found},
        costs=cost,
        curves={method: [] if group[0].adapted else curve(group) for method, group in groups.items()},
        cautions=tuple(find_cautions(groups, scores, cost, tests)),
        adapted=tuple(method for method, group in groups.items() if group[0].adapted),
    )
