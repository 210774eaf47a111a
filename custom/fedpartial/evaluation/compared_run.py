"""One run that takes part in a comparison: the content of its report.json and what the report does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedpartial.errors import ConfigError
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_ORGANS
from fedpartial.labels import LabelSpace
from fedpartial.presets import get_preset

SITES = "sites"
ALL_CASES = "all"
SETS = (EXTERNAL, EXTERNAL_ORGANS, SITES)
"""Sets with tables of their own; tests have ``ALL_CASES``, external and sites together, as well."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """method: what is compared, as the reader calls it. seed: of this run. report: valid content of report.json.
    local_steps: of each site in each round.
    """

    method: str
    seed: int
    report: Mapping
    local_steps: int

    @cached_property
    def space(self) -> LabelSpace:
        """The preset's label space, lesions included."""
        return get_preset(self.report["preset"]).label_space

    @cached_property
    def merged(self) -> bool:
        """Whether the run knows no lesions, so that its organs contain them (ConDistFL Union)."""
        scored = {name for summary in self.summaries(EXTERNAL) + self.summaries(SITES) for name in summary}
        return bool(scored and self.space.lesions) and scored.isdisjoint(self.space.lesions)

    def summaries(self, which: str) -> list[Mapping[str, Mapping]]:
        """The summaries (``summarise``) of a set: one, or one per site; [] without such a set."""
        if which == SITES:
            return list(self.report["sites"].values())
        found = self.report.get(which, {})
        if which == EXTERNAL_ORGANS and not found and self.merged:
            found = self.report[EXTERNAL]
        return [found] if found else []

    def cases(self, which: str) -> dict[str, Sequence[Mapping]]:
        """Place -> cases of a set, places in alphabetical order; a site that sends summaries has none."""
        cases = self.report["cases"]
        if which == ALL_CASES:
            return self.cases(EXTERNAL) | self.cases(SITES)
        if which == SITES:
            return {place: cases[place] for place in sorted(cases) if place not in (EXTERNAL, EXTERNAL_ORGANS)}
        found = cases.get(which, ())
        if which == EXTERNAL_ORGANS and not found and self.merged:
            found = cases.get(EXTERNAL, ())
        return {which: found} if found else {}

    @property
    def steps(self) -> int:
        """Local steps of one site in the whole run."""
        return len(self.report["rounds"]) * self.local_steps


def by_method(runs: Iterable[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Method -> its runs by seed, methods in the order of their first run; ConfigError for a seed that comes twice."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    for method, group in groups.items():
        seeds = [run.seed for run in group]
        if len(set(seeds)) < len(seeds):
            raise ConfigError(
                where="comparison",
                field=method,
                got=seeds,
                expected="one run for each seed",
                remedy="Give runs with different settings different names.",
            )
    return {method: sorted(group, key=lambda run: run.seed) for method, group in groups.items()}


def comparable(a: ComparedRun, b: ComparedRun, which: str) -> bool:
    """Whether a class means the same structure in both: organ and organ with tumour are different ones."""
    return which == EXTERNAL_ORGANS or a.merged == b.merged
