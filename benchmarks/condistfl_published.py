"""The published numbers of ConDistFL beside ours, as a Markdown table.

    fedpartial compare --plan benchmarks/plans/condistfl_table.json -o comparisons/condistfl_table
    python benchmarks/condistfl_published.py comparisons/condistfl_table

Published: Wang et al., MICCAI DeCaF 2023, Table 1 (mean Dice over seven classes at the sites) and Table 2 (over four
organs of AMOS22, lesions merged). They come from CTs of patients, ours from the phantom: compare the order and the
distances within a column, not the columns.
"""

from __future__ import annotations

from collections.abc import Iterator

from published_table import markdown, ours, read_comparison

from fedpartial.evaluation.formats import number

PUBLISHED = {
    "standalone": ("Standalone", 0.8102, 0.7417),
    "fedavg_plain": ("FedAvg*", 0.3934, None),
    "fedavg": ("FedAvg", 0.7281, 0.6039),
    "fedprox": ("FedProx", 0.7111, 0.5999),
    "fedopt": ("FedOpt", 0.7239, 0.5611),
    "condistfl": ("ConDistFL", 0.7700, 0.7788),
    "condistfl_union": ("ConDistFL (Union)", None, 0.8674),
    "central": ("central, marginal loss", None, None),
    "central_plain": ("central, unlabelled = background", None, None),
}
HEAD = (
    "method",
    "paper, sites",
    "ours, sites",
    "paper, AMOS organs",
    "ours, external organs",
    "ours, external, all classes",
)


def rows(comparison: dict) -> Iterator[tuple[str, ...]]:
    """One row for each job of the comparison that the paper has, or that belongs beside it."""
    for job, (name, sites, amos) in PUBLISHED.items():
        if job in comparison["methods"]:
            cells = (name, number(sites, 4), ours(comparison, "sites", job), number(amos, 4))
            yield (*cells, ours(comparison, "external_organs", job), ours(comparison, "external", job))


if __name__ == "__main__":
    print(markdown(HEAD, rows(read_comparison(__doc__))))
