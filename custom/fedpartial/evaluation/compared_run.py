"""One run that takes part in a comparison: the content of its report.json and what the report does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fedpartial.errors import ConfigError
from fedpartial.evaluation.adaptation import OWN_MODELS
from fedpartial.evaluation.annotated import cases_of_kind, summaries_of_kind
from fedpartial.evaluation.comparison_sets import ALL_CASES, KINDS, SETS, SITES
from fedpartial.evaluation.formats import class_label
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_HEADS, EXTERNAL_NAMES, EXTERNAL_ORGANS
from fedpartial.labels import LabelSpace
from fedpartial.presets import get_preset

_ADAPTATION = tuple(f"{kind}_{what}" for kind in ("adapted", "unadapted") for what in ("sites", "cases"))


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """method: what is compared, as the reader calls it. seed: of this run. report: valid content of report.json.
    local_steps: of each site in each round. finetune_steps: of each site after the last round. merged: whether its
    label space has no lesions, so that its organs contain them (ConDistFL Union, SegViz). adapt_steps: of each site for
    each way of site adaptation. adapted: whether this is not the run's own model, but those of its sites.
    """

    method: str
    seed: int
    report: Mapping
    local_steps: int
    finetune_steps: int = 0
    merged: bool = False
    adapt_steps: int = 0
    adapted: bool = False

    @cached_property
    def space(self) -> LabelSpace:
        """The preset's label space, lesions included where it has any."""
        space = get_preset(self.report["preset"]).label_space
        return space if space.sided else replace(space, merge_lesions=False)  # sided organs contain their lesions

    @cached_property
    def _by_kind(self) -> dict[str, dict[str, Mapping]]:
        """Set of ``KINDS`` -> site -> summary."""
        given = (self.report["sites"], self.cases(SITES), self._all_classes)
        return {which: summaries_of_kind(*given, kind) for which, kind in KINDS.items()}

    @property
    def _all_classes(self) -> tuple[str, ...]:
        """What a case must annotate to be fully annotated."""
        return self.space.merged.classes if self.merged else self.space.classes

    @cached_property
    def classes(self) -> frozenset[str]:
        """The classes that its sites annotate, or that it is scored on."""
        return frozenset(name for summary in self.summaries(EXTERNAL) + self.summaries(SITES) for name in summary)

    @property
    def has_heads(self) -> bool:
        """Whether classes were scored from heads of their own."""
        return bool(self.report.get(EXTERNAL_HEADS))

    def summaries(self, which: str) -> list[Mapping[str, Mapping]]:
        """The summaries (``summarise``) of a set: one, or one per site; [] without such a set."""
        if which == SITES:
            return list(self.report["sites"].values())
        if which in KINDS:
            return list(self._by_kind[which].values())
        found = self.report.get(which, {})
        if not found and self._has_as_external(which):
            found = self.report[EXTERNAL]
        return [found] if found else []

    def cases(self, which: str) -> dict[str, Sequence[Mapping]]:
        """Place -> cases of a set, places in alphabetical order; a site that sends summaries has none."""
        cases = self.report["cases"]
        if which == ALL_CASES:
            return self.cases(EXTERNAL) | self.cases(SITES)
        if which == SITES:
            return {place: cases[place] for place in sorted(cases) if place not in EXTERNAL_NAMES}
        if which in KINDS:
            return cases_of_kind(self.cases(SITES), self._all_classes, KINDS[which])
        found = cases.get(which, ())
        if not found and self._has_as_external(which):
            found = cases.get(EXTERNAL, ())
        return {which: found} if found else {}

    def _has_as_external(self, which: str) -> bool:
        """Whether the external set itself says what this set would: organs that contain their lesions, or one mask
        per class although there are no heads."""
        return self.merged if which == EXTERNAL_ORGANS else which == EXTERNAL_HEADS and not self.has_heads

    @property
    def steps(self) -> int:
        """Local steps of one site in the whole run."""
        return len(self.report["rounds"]) * self.local_steps + self.finetune_steps


def with_adapted(run: ComparedRun) -> list[ComparedRun]:
    """The run, and one more for each way in which its sites have models of their own, in place of the run's.

    No such model is for an external set, and all share the rounds of the run and what these cost.
    """
    empty = {name: {} for name in (*EXTERNAL_NAMES, "cross_site", *_ADAPTATION)}
    rows = [run]
    for way, sites in run.report.get("adapted_sites", {}).items():  # reports of earlier versions have none
        cases = run.report["adapted_cases"].get(way, {})
        row = replace(
            run,
            method=f"{run.method}, {OWN_MODELS.get(way, f'adapted {class_label(way)}')}",
            report={**run.report, **empty, "sites": sites, "cases": cases},
            finetune_steps=run.finetune_steps + run.adapt_steps,
            adapted=True,
        )
        rows.append(row)
    return rows


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


def shown_sets(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """The sets that a run has, without those that would repeat the external set or the sites for all of them."""
    one_kind = not all(any(run.summaries(which) for run in runs) for which in KINDS)
    repeated = {
        EXTERNAL_ORGANS: all(run.merged for run in runs),
        EXTERNAL_HEADS: not any(run.has_heads for run in runs),
        **dict.fromkeys(KINDS, one_kind),
    }
    return tuple(which for which in SETS if not repeated.get(which) and any(run.summaries(which) for run in runs))


def comparable(a: ComparedRun, b: ComparedRun, which: str) -> bool:
    """Whether a class means the same structure in both: organ and organ with tumour are different ones."""
    return which == EXTERNAL_ORGANS or a.merged == b.merged
