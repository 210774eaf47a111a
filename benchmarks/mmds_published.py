"""The published numbers of MMDS beside ours, as a Markdown table.

    fedpartial compare --plan benchmarks/plans/mmds_table.json -o comparisons/mmds_table
    python benchmarks/mmds_published.py comparisons/mmds_table

Published: "Federated continual 3D segmentation with single-round communication", mean Dice over 15 organs after five
stages beside centralised training, and how many organs exceed 70 % (METHODS 4.8); all else are figures only. Theirs
come from CTs of patients with 15 organs, ours from the phantom with 6: compare the distance from central training, not
the columns. A method is known by its name in the plan; every row is compared with the one called ``CENTRAL``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from published_table import markdown, ours, read_comparison

from fedpartial.evaluation.formats import UNDEFINED, percent
from fedpartial.presets import MMDS_PAPER, PHANTOM_MMDS

MMDS, CENTRAL = "MMDS, stage 5", "Central"
"""Names in benchmarks/plans/mmds_table.json."""
PUBLISHED: Mapping[str, tuple[float, str]] = {MMDS: (0.7865, "12 of 15"), CENTRAL: (0.8509, UNDEFINED)}
"""Mean organ Dice and organs above ``GOOD``, where the paper says it."""
GOOD = 0.7
LESIONS = {*MMDS_PAPER.label_space.lesions, *PHANTOM_MMDS.label_space.lesions}
SETS = {"sites": "Test cases of the sites", "external": "External set"}
HEAD = (
    "method",
    "mean organ Dice, paper",
    "ours",
    "share of central, paper",
    "ours",
    f"organs above {GOOD:.0%}, paper",
    "ours",
    "all classes, ours",
)


def organs(comparison: dict, which: str, method: str) -> dict[str, float]:
    """Our Dice of every organ, mean over seeds; {} for a method that the set has not."""
    found = comparison["scores"][which]["dice"].get(method, {"classes": {}})["classes"]
    return {name: entry["mean"] for name, entry in found.items() if name not in LESIONS and entry["mean"] is not None}


def mean(dice: Mapping[str, float]) -> float | None:
    return sum(dice.values()) / len(dice) if dice else None


def share(dice: float | None, central: float | None) -> str:
    return percent(dice / central) if dice is not None and central else UNDEFINED


def rows(comparison: dict, which: str) -> Iterator[tuple[str, ...]]:
    """The paper's two rows, then those that only the comparison has."""
    central = mean(organs(comparison, which, CENTRAL))
    for method in dict.fromkeys((*PUBLISHED, *comparison["methods"])):
        dice, found = PUBLISHED.get(method, (None, UNDEFINED)), organs(comparison, which, method)
        good = f"{sum(value > GOOD for value in found.values())} of {len(found)}" if found else UNDEFINED
        yield (
            method,
            percent(dice[0], 2),
            percent(mean(found), 2),
            share(dice[0], PUBLISHED[CENTRAL][0]),
            share(mean(found), central),
            dice[1],
            good,
            ours(comparison, which, method),
        )


def tables(comparison: dict) -> str:
    """A table for each set that the comparison has."""
    given = {which: title for which, title in SETS.items() if which in comparison["scores"]}
    return "\n\n".join(f"{title}:\n\n{markdown(HEAD, rows(comparison, which))}" for which, title in given.items())


if __name__ == "__main__":
    print(tables(read_comparison(__doc__)))
