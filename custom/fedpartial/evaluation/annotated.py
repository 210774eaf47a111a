"""Cases that annotate every class apart from those that annotate some: the papers' tables do not mix them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fedpartial.evaluation.record import case_scores
from fedpartial.evaluation.summary import summarise_classes
from fedpartial.presets import get_preset

FULLY, PARTIALLY = "fully annotated", "partially annotated"
KINDS = (FULLY, PARTIALLY)


def all_classes(report: Mapping) -> tuple[str, ...]:
    """The classes of a report's label space, which is without lesions where no lesion is scored anywhere."""
    space = get_preset(report["preset"]).label_space
    scored = {name for summary in (report["external"], *report["sites"].values()) for name in summary}
    return space.classes if scored & set(space.lesions) else space.merged.classes


def kind_of(annotated: Collection[str], classes: Collection[str]) -> str:
    """FULLY or PARTIALLY; ``annotated`` has the classes of a case or of a site, ``classes`` all of the label space."""
    return FULLY if set(classes) <= set(annotated) else PARTIALLY


def cases_of_kind(
    cases: Mapping[str, Sequence[Mapping]], classes: Collection[str], kind: str
) -> dict[str, list[Mapping]]:
    """Site -> its cases of this kind, in their order; ``cases`` as in report.json. No entry for a site without any."""
    found = {site: [c for c in given if kind_of(c["status"], classes) == kind] for site, given in cases.items()}
    return {site: given for site, given in found.items() if given}


def summaries_of_kind(
    summaries: Mapping[str, Mapping], cases: Mapping[str, Sequence[Mapping]], classes: Collection[str], kind: str
) -> dict[str, Mapping]:
    """Site -> summary (``summarise``) of its cases of this kind; ``summaries`` and ``cases`` as in report.json.

    A site that sends no cases counts as a whole, by the classes that it has scores of.
    """
    chosen = cases_of_kind(cases, classes, kind)
    found = {}
    for site, summary in summaries.items():
        if site in cases:
            if site in chosen:
                found[site] = summarise_classes([case_scores(case) for case in chosen[site]])
        elif kind_of(summary, classes) == kind:
            found[site] = summary
    return found
