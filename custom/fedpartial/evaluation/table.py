"""The Dice of every class, external and per site, as a table for the console; site adaptation below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedpartial.evaluation.adaptation import adaptation_table
from fedpartial.evaluation.formats import UNDEFINED, WITHHELD, class_label, number
from fedpartial.evaluation.record import RunRecord

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def console_table(report: RunRecord | Mapping) -> Table | Group:
    """The Dice of every class, and below it the table of site adaptation in a run with one.

    ``report`` is a record or the content of report.json.
    """
    from rich.console import Group

    report = report.to_report() if isinstance(report, RunRecord) else report
    table, adapted = _dice_table(report), adaptation_table(report)
    return table if adapted is None else Group(table, adapted)


def _dice_table(report: Mapping) -> Table:
    """One row per class, one column for the external set and each site: mean, number of cases, sd.

    A dash means: not annotated there; "withheld": the site keeps numbers behind which few cases stand.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    columns = ({"external": report["external"]} if report["external"] else {}) | report["sites"]
    table = Table(
        title=Text(f"Dice of {report['job']}"), caption="mean (n cases) \N{PLUS-MINUS SIGN} sd", box=SIMPLE_HEAD
    )
    table.add_column("class", no_wrap=True)
    for name in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for name in _classes(columns):
        table.add_row(Text(class_label(name)), *(_cell(summary.get(name)) for summary in columns.values()))
    return table


def _classes(columns: Mapping[str, Mapping]) -> list[str]:
    """Every class of any column, in the order of first appearance (the external set has them all)."""
    return list(dict.fromkeys(name for summary in columns.values() for name in summary))


def _cell(entry: Mapping | None) -> str:
    """Two lines, so that five columns fit a console of 80."""
    if entry is None:
        return UNDEFINED
    dice = entry["dice"]
    if dice["n"] is None:
        return WITHHELD
    sd = "" if dice["sd"] is None else f"\N{PLUS-MINUS SIGN} {number(dice['sd'])}"
    return f"{number(dice['mean'])} ({dice['n']})\n{sd}".rstrip()
