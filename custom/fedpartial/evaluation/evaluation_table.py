"""The scores of an evaluation as a table for the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.formats import class_label, mean_sd, plural

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("Dice", "HD95 mm", "ASSD mm", "n", "missed", "FP")

WITH_LESIONS = " + lesions"


def evaluation_table(evaluation: Evaluation) -> Table:
    """One row per class; below them organs together with their lesions, where both are annotated."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{evaluation.site}, {plural(len(evaluation.cases), 'case')}")
    caption = f"mean ± sd over cases; FP: false positives, empty class: {evaluation.empty_class}"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    merged = evaluation.merged
    for name, entry in evaluation.classes.items():
        table.add_row(class_label(name) + (WITH_LESIONS if name in merged else ""), *_cells(entry))
    for position, (name, entry) in enumerate(evaluation.organs.items()):
        if position == 0:
            table.add_section()
        table.add_row(class_label(name) + WITH_LESIONS, *_cells(entry))
    return table


def _cells(entry: dict) -> tuple[str, ...]:
    scores = mean_sd(entry["dice"]), mean_sd(entry["hd95_mm"], 1), mean_sd(entry["assd_mm"], 2)
    return *scores, *(str(number) for number in (entry["dice"]["n"], entry["missed"], entry["false_positive"]))
