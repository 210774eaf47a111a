"""The sets of cases that a comparison has tables of: their names, and what they hold. Nothing else names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedpartial.evaluation.annotated import FULLY, PARTIALLY
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_HEADS, EXTERNAL_ORGANS

SITES = "sites"
SITES_FULL, SITES_PARTIAL = "sites_full", "sites_partial"
KINDS = {SITES_FULL: FULLY, SITES_PARTIAL: PARTIALLY}
"""Sets of the cases of the sites -> which of them they hold."""
ALL_CASES = "all"


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """title: in headings and sentences. label: where there is little room. marker: of points in figures, as matplotlib
    calls it. definition: for the reader."""

    title: str
    label: str
    marker: str
    definition: str


SETS: Mapping[str, ScoreSet] = {
    EXTERNAL: ScoreSet(
        title="external set",
        label="external",
        marker="o",
        definition="Cases that no site trained on. A method is scored on the classes that it was trained for.",
    ),
    EXTERNAL_ORGANS: ScoreSet(
        title="external set, lesions counted as their organ",
        label="external, lesions merged",
        marker="D",
        definition="The external set again, after lesions became their organ in prediction and reference, so that "
        "methods with and without lesion classes can be compared.",
    ),
    EXTERNAL_HEADS: ScoreSet(
        title="external set, each class from its own head",
        label="external, single heads",
        marker="^",
        definition="The external set again, each class from the binary mask of its own head, before the heads are "
        "fused to one label map; masks may overlap. A method without heads has the scores of its label map here, which "
        "gives each class one mask as well.",
    ),
    SITES: ScoreSet(
        title="sites",
        label="sites",
        marker="s",
        definition="The test cases of each site and the classes it annotates. The mean of a class is over the cases of "
        "all sites that annotate it.",
    ),
    SITES_FULL: ScoreSet(
        title="sites, fully annotated",
        label="sites, full",
        marker="v",
        definition="The test cases of sites that annotate every class of the preset.",
    ),
    SITES_PARTIAL: ScoreSet(
        title="sites, partially annotated",
        label="sites, partial",
        marker="p",
        definition="The test cases of sites that annotate some classes only; a site that sends no cases is taken as a "
        "whole.",
    ),
}
"""Sets with tables of their own, in their order; tests have ``ALL_CASES``, external and sites together, as well."""

TITLES = {name: found.title for name, found in SETS.items()} | {ALL_CASES: "external set and sites together"}
