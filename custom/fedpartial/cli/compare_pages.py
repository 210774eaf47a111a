"""The comparison of finished runs, as files and as a table for the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.evaluation.comparison import ComparedRun, Comparison, compare
from fedpartial.evaluation.formats import UNDEFINED, mean_sd, rough_duration

if TYPE_CHECKING:
    from rich.console import Console

SETS = {"external": "external", "external_organs": "external,\nlesions merged", "sites": "sites"}


def write_pages(
    runs: Iterable[ComparisonRun], title: str, out: Path, pictures: Sequence[tuple[str, bytes]] = ()
) -> tuple[Comparison, Path]:
    """Compare finished runs and write the comparison's files into ``out``; returns it and its page."""
    from fedpartial.evaluation.comparison_files import write_comparison

    comparison = compare([compared(run) for run in runs], title=title)
    return comparison, write_comparison(comparison, out, pictures).html


def compared(run: ComparisonRun) -> ComparedRun:
    """A pool takes as many steps as its members together, and a comparison must show that."""
    pooled = max((len(site.members) for site in run.checked.sites), default=1)
    steps = run.checked.plan.schedule.pooled(pooled).local_steps
    return ComparedRun(method=run.name, seed=run.seed, report=run.report, local_steps=steps)


def print_table(comparison: Comparison, console: Console) -> None:
    """One row per method: the Dice of each set, averaged over classes, and how long a run took."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    caption = (
        "mean over classes \N{PLUS-MINUS SIGN} sd over seeds; a dash: not all classes, or no such set; time without "
        "data preparation"
    )
    table = Table(title=Text(f"Dice: {comparison.title}"), caption=caption, box=SIMPLE_HEAD)
    table.add_column("method", min_width=16)
    sets = [name for name in SETS if name in comparison.scores]
    for heading in (*(SETS[name] for name in sets), "seeds", "time of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in comparison.methods:
        table.add_row(Text(method), *(_macro(comparison, name, method) for name in sets), *_costs(comparison, method))
    console.print(table)


def _macro(comparison: Comparison, which: str, method: str) -> str:
    """On two lines, so that every method's name fits a console of 80."""
    found = comparison.scores[which]["dice"].get(method)
    text = UNDEFINED if found is None else mean_sd(found["macro"])
    return text.replace(" \N{PLUS-MINUS SIGN}", "\n\N{PLUS-MINUS SIGN}")


def _costs(comparison: Comparison, method: str) -> tuple[str, str]:
    costs = comparison.costs[method]
    return str(len(costs["seeds"])), rough_duration(costs["seconds"])
