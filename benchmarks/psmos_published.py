"""The published numbers of FL-PSMOS beside ours, Dice and HD95, as Markdown tables.

    fedpartial compare --plan benchmarks/plans/psmos_table.json -o comparisons/psmos_table
    python benchmarks/psmos_published.py comparisons/psmos_table

and the same with psmos_losses and psmos_rounds. Published: Liu, Sun, Zhou, "Multi-site organ segmentation with
federated partial supervision and site adaptation", Tables 2 to 6 (METHODS 3.3 to 3.6), Dice and HD95 in mm over five
organs: F are the test cases of the fully annotated site, P those of the others. They come from CTs of patients, ours
from the phantom: compare the order and the distances within a column, not the columns. The paper's table of site
adaptation has lost the names of two ways; its text reads as if the frozen encoder were the best and the frozen decoder
the worst (METHODS 3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from published_table import markdown, read_comparison

from fedpartial.evaluation.formats import UNDEFINED, duration, mean_sd, number

Pair = tuple[float, float]
"""Dice and HD95 in mm."""

SETS = {"sites_full": "F", "sites_partial": "P", "sites": "F and P"}
"""Set of a comparison -> what the paper calls it."""
ADAPTED = "Federated, adapted "
TABLE: Mapping[str, Mapping[str, Pair]] = {
    "Single-site models": {"F": (0.905, 3.71), "P": (0.894, 8.02)},
    "PaNN": {"F and P": (0.906, 5.29)},
    "PIPO": {"F and P": (0.908, 6.69)},
    "MargExc": {"F and P": (0.929, 4.33)},
    "Central": {"F": (0.933, 1.78), "P": (0.932, 6.49), "F and P": (0.933, 3.76)},
    "Federated": {"F": (0.924, 2.54), "P": (0.924, 7.06), "F and P": (0.924, 4.80)},
    f"{ADAPTED}all": {},
    f"{ADAPTED}encoder frozen": {"F": (0.929, 2.31), "P": (0.928, 6.44), "F and P": (0.929, 4.38)},
    f"{ADAPTED}decoder frozen": {"F": (0.918, 3.27), "P": (0.915, 6.91)},
}
"""Tables 3, 4 and 6. PaNN, PIPO and MargExc are central methods that we have not got."""
LOSSES: Mapping[str, Mapping[str, Pair]] = {"Dice + CE + Lovász": {"F": (0.933, 1.78), "P": (0.932, 6.49)}}
"""Table 2, the best combination; of two losses Dice and CE are the best pair."""
ROUNDS: Mapping[str, tuple[str, Pair, int]] = {
    "5 steps x 32 rounds": ("25 x 4000", (0.895, 5.44), 94),
    "10 steps x 16 rounds": ("50 x 2000", (0.924, 4.80), 89),
    "20 steps x 8 rounds": ("100 x 1000", (0.919, 4.61), 82),
    "Central": ("central", (0.933, 3.76), 75),
}
"""Table 5: the paper's steps and rounds, F and P, and hours of training."""
HEAD = ("method", *(f"{which}, {whose}" for which in SETS.values() for whose in ("paper", "ours")))
ROUNDS_HEAD = ("ours", "paper", "F and P, paper", "F and P, ours", "hours, paper", "training time, ours")


def published(pair: Pair | None) -> str:
    """Dice / HD95 as the paper prints them."""
    return UNDEFINED if pair is None else f"{number(pair[0])} / {number(pair[1], 2)}"


def ours(comparison: dict, which: str, method: str) -> str:
    """Dice ± sd over seeds / HD95 in mm, means over classes; a dash where there is none."""
    scores = comparison["scores"].get(which, {})
    if method not in scores.get("dice", {}) or scores["dice"][method]["macro"]["mean"] is None:
        return UNDEFINED
    dice, distance = (scores[metric][method]["macro"] for metric in ("dice", "hd95_mm"))
    return f"{mean_sd(dice)} / {number(distance['mean'], 1)}"


def rows(comparison: dict, paper: Mapping[str, Mapping[str, Pair]]) -> Iterator[tuple[str, ...]]:
    """The paper's rows in its order, then those that only the comparison has."""
    for method in dict.fromkeys((*paper, *comparison["methods"])):
        pairs = (
            (published(paper.get(method, {}).get(name)), ours(comparison, which, method))
            for which, name in SETS.items()
        )
        yield (method, *(text for pair in pairs for text in pair))


def round_rows(comparison: dict) -> Iterator[tuple[str, ...]]:
    """One row for each length of a round, and for central training."""
    for method in comparison["methods"]:
        name, pair, hours = ROUNDS[method]
        seconds = comparison["costs"][method]["training_seconds"]
        yield (method, name, published(pair), ours(comparison, "sites", method), str(hours), duration(seconds))


def table(comparison: dict) -> str:
    """The table of the paper that the comparison is of, known by the names of its methods."""
    methods = set(comparison["methods"])
    if methods <= ROUNDS.keys() and methods != {"Central"}:
        return markdown(ROUNDS_HEAD, round_rows(comparison))
    return markdown(HEAD, rows(comparison, LOSSES if methods & LOSSES.keys() else TABLE))


if __name__ == "__main__":
    print(f"Dice / HD95 in mm:\n\n{table(read_comparison(__doc__))}")
