"""comparison.html: one file with everything inline, and comparison.md with the same tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from fedpartial.evaluation.comparison import Comparison
from fedpartial.evaluation.comparison_figures import macro_means, validation_by_steps
from fedpartial.evaluation.comparison_sets import ALL_CASES, SETS, TITLES
from fedpartial.evaluation.comparison_tables import (
    Table,
    cost_table,
    difference_matrix,
    markdown,
    pair_table,
    score_table,
    summary_table,
)
from fedpartial.evaluation.page import fill, inline_figures

TEMPLATE = "comparison.html"
Pictures = Sequence[tuple[str, bytes]]


def render_html(comparison: Comparison, pictures: Pictures = ()) -> str:
    """The page of a comparison. pictures: (title, PNG bytes)."""
    drawn = {
        "means": macro_means(comparison.scores, comparison.methods),
        "validation": validation_by_steps(comparison.curves),
    }
    encoded = [(title, base64.b64encode(png).decode("ascii")) for title, png in pictures]
    return fill(TEMPLATE, _tables(comparison) | {"figures": inline_figures(drawn), "pictures": encoded})


def render_markdown(comparison: Comparison) -> str:
    """The tables in Markdown, for other documents."""
    tables = _tables(comparison)
    parts = [f"# {comparison.title}\n", "".join(f"- {sentence}\n" for sentence in comparison.cautions)]
    parts += ["## Scores: means over classes\n", markdown(tables["summary"])]
    for name, by_metric in tables["scores"].items():
        parts += [f"## Scores: {name}\n", *(markdown(table) for table in by_metric.values())]
    for name, (matrix, pairs) in tables["tests"].items():
        parts += [f"## Tests: {name}\n", markdown(matrix), markdown(pairs)]
    parts += ["## Cost\n", markdown(tables["cost"])]
    return "\n".join(part for part in parts if part)


def _tables(comparison: Comparison) -> dict:
    return {
        "comparison": comparison,
        "num_runs": sum(len(cost["seeds"]) for m, cost in comparison.costs.items() if m not in comparison.adapted),
        "summary": summary_table(comparison),
        "sets": [SETS[which] for which in comparison.scores],
        "scores": {TITLES[which]: _scores(comparison, which) for which in comparison.scores},
        "tests": {
            TITLES[which]: (difference_matrix(comparison, which), pair_table(comparison, which))
            for which in (ALL_CASES, *SETS)
            if which in comparison.tests
        },
        "cost": cost_table(comparison),
    }


def _scores(comparison: Comparison, which: str) -> Mapping[str, Table]:
    return {metric: score_table(comparison, which, metric) for metric in ("dice", "hd95_mm")}
