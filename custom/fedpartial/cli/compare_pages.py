"""The comparison of finished runs, as files and as a table for the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.cli.job_folder import Job
from fedpartial.evaluation.comparison import ComparedRun, Comparison, compare
from fedpartial.evaluation.comparison_sets import SETS
from fedpartial.evaluation.comparison_tables import mean_over_classes
from fedpartial.evaluation.formats import rough_duration
from fedpartial.flare.site_adaptation import SiteAdaptation

if TYPE_CHECKING:
    from rich.console import Console


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
    plan = run.checked.plan
    steps = plan.schedule.pooled(pooled).local_steps
    return ComparedRun(
        method=run.name,
        seed=run.seed,
        report=run.report,
        local_steps=steps,
        finetune_steps=plan.finetune_steps,
        merged=plan.config.label_space.merge_lesions,
        adapt_steps=adapt_steps(run.checked.job),
    )


def adapt_steps(job: Job) -> int:
    """Local steps of each way of site adaptation; 0 for a job without this phase."""
    path = f"{SiteAdaptation.__module__}.{SiteAdaptation.__name__}"
    for workflow in job.server["workflows"]:
        if workflow["path"] == path:
            steps = workflow["args"]["steps"]
            return job.server[steps.strip("{}")] if isinstance(steps, str) else steps
    return 0


def print_table(comparison: Comparison, console: Console) -> None:
    """One row per method: the Dice of each set, averaged over classes, and how long a run took."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    caption = (
        "mean over classes \N{PLUS-MINUS SIGN} sd over seeds; (2 of 4): of 2 classes only; a dash: classes are "
        "missing, or no such set; time without data preparation"
    )
    table = Table(title=Text(f"Dice: {comparison.title}"), caption=caption, box=SIMPLE_HEAD)
    table.add_column("method", min_width=16)
    sets = list(comparison.scores)
    for heading in (*(_in_lines(SETS[name].label) for name in sets), "seeds", "time of\na run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in comparison.methods:
        table.add_row(Text(method), *(_macro(comparison, name, method) for name in sets), *_costs(comparison, method))
    console.print(table)


def _in_lines(label: str) -> str:
    """One word a line, so that every method's name fits a console of 80 beside all sets."""
    return label.replace(" ", "\n")


def _macro(comparison: Comparison, which: str, method: str) -> str:
    """Mean, sd and number of classes, a line each."""
    text = mean_over_classes(comparison.scores[which], "dice", method)
    return text.replace(" \N{PLUS-MINUS SIGN}", "\n\N{PLUS-MINUS SIGN}").replace(" (", "\n(")


def _costs(comparison: Comparison, method: str) -> tuple[str, str]:
    costs = comparison.costs[method]
    return str(len(costs["seeds"])), rough_duration(costs["seconds"])
