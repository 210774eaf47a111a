"""The published numbers of SegViz beside ours, organ by organ, as Markdown tables.

    fedpartial compare --plan benchmarks/plans/segviz_table.json -o comparisons/segviz_table
    python benchmarks/segviz_published.py comparisons/segviz_table

Published: P1 (CVPR workshop paper), Table 2: Dice on 30 volumes of BTCV; P2 (arXiv paper), Table 2: the same for its
variants, and Table 1: Dice at the sites (METHODS 2.7). P1's SegViz is P2's FedAvg variant. Theirs come from CTs of
patients, ours from the phantom: compare the order and the distances within a column, not the columns. The published
notebooks never exchanged anything (METHODS 2.2), so an agreement would be no replication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from published_table import markdown, ours, read_comparison

from fedpartial.evaluation.formats import UNDEFINED, number

ORGANS = ("liver", "spleen", "pancreas", "kidney")
Published = Mapping[str, Mapping[str, tuple[float, ...]]]
"""Name in benchmarks/plans/segviz_table.json -> paper -> Dice of ``ORGANS``, of the first ones for fewer nodes."""

EXTERNAL: Published = {
    "Single-organ models, 4 nodes": {"P1": (0.88, 0.79, 0.46, 0.64), "P2": (0.87, 0.83, 0.42, 0.48)},
    "Central, 4 nodes": {"P1": (0.65, 0.00, 0.55, 0.68)},
    "Conventional, 2 nodes": {"P1": (0.89, 0.84)},
    "Conventional, 3 nodes": {"P1": (0.75, 0.71, 0.45)},
    "Conventional, 4 nodes": {"P1": (0.91, 0.46, 0.53, 0.68)},
    "FedAvg, 2 nodes": {"P1": (0.90, 0.84)},
    "FedAvg, 3 nodes": {"P1": (0.91, 0.81, 0.55)},
    "FedAvg, 4 nodes": {"P1, P2": (0.93, 0.78, 0.40, 0.78)},
    "FedBN, 4 nodes": {"P2": (0.93, 0.83, 0.55, 0.74)},
    "FedAvg + fine-tuning, 4 nodes": {"P2": (0.93, 0.73, 0.44, 0.76)},
    "FedBN + fine-tuning, 4 nodes": {"P2": (0.93, 0.83, 0.55, 0.75)},
}
AT_SITES: Published = {
    "Single-organ models, 4 nodes": {"P2": (0.94, 0.94, 0.70, 0.83)},
    "FedBN + fine-tuning, 4 nodes": {"P2": (0.93, 0.94, 0.69, 0.83)},
}
NOT_PUBLISHED: Mapping[str, tuple[float, ...]] = {UNDEFINED: ()}
TABLES = {
    "external_heads": ("External set, each organ from its own head, as the papers score it", EXTERNAL),
    "external": (
        "External set, the heads fused to one label map; the papers' are of single heads, where a method has any",
        EXTERNAL,
    ),
    "sites": ("Test cases of the sites", AT_SITES),
}
HEAD = ("method", "paper", *(f"{organ}, {whose}" for organ in ORGANS for whose in ("paper", "ours")))


def rows(comparison: dict, which: str, published: Published) -> Iterator[tuple[str, ...]]:
    """A row for each method of the comparison and each paper that has it; ours alone where none has."""
    for method in comparison["methods"]:
        for paper, dice in published.get(method, NOT_PUBLISHED).items():
            pairs = ((number(d, 2), ours(comparison, which, method, o)) for o, d in zip_longest(ORGANS, dice))
            yield (method, paper, *(text for pair in pairs for text in pair))


def tables(comparison: dict) -> str:
    """All tables of which the comparison has the set."""
    return "\n\n".join(
        f"{title}:\n\n{markdown(HEAD, rows(comparison, which, published))}"
        for which, (title, published) in TABLES.items()
        if which in comparison["scores"]
    )


if __name__ == "__main__":
    print(tables(read_comparison(__doc__)))
