"""Write an evaluation: cases.csv and summary.csv in long format, evaluation.json, a page, and its figures as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpartial.evaluation.evaluation_page import draw_figures, render_evaluation
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.record import Overlay
from fedpartial.evaluation.summary import METRICS

APART, MERGED, TOGETHER = "apart", "merged", "together"
"""Column "lesions": not part of the class; part of the organ, since one side does not know them; and the organ with its
lesions where both are known, as a row beside the others."""
CASE_COLUMNS = ("case", "site", "split", "class", "lesions", "status", "dice", "hd95_mm", "assd_mm", "leakage")
SUMMARY_COLUMNS = ("class", "lesions", "metric", "mean", "sd", "n", "missed", "false_positive")
JSON = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class TablePaths:
    """The numbers of one evaluation."""

    json: Path
    cases_csv: Path
    summary_csv: Path


@dataclass(frozen=True, kw_only=True)
class PagePaths:
    """What shows them."""

    html: Path
    figures: tuple[Path, ...]
    pictures: tuple[Path, ...]


def write_tables(evaluation: Evaluation, out: Path) -> TablePaths:
    """Both lists and, when these are complete, evaluation.json. ``out`` exists."""
    paths = TablePaths(json=out / JSON, cases_csv=out / "cases.csv", summary_csv=out / "summary.csv")
    text = json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n"
    _write_csv(paths.cases_csv, CASE_COLUMNS, _case_rows(evaluation))
    _write_csv(paths.summary_csv, SUMMARY_COLUMNS, _summary_rows(evaluation))
    paths.json.write_text(text, encoding="utf-8")
    return paths


def write_page(evaluation: Evaluation, out: Path, overlays: Mapping[str, Overlay]) -> PagePaths:
    """The page, and its figures and pictures as files. overlays: file name without suffix -> picture of a case."""
    drawn = draw_figures(evaluation)
    html = render_evaluation(evaluation.to_json(), evaluation.space, drawn, list(overlays.values()))
    figures = {out / f"{name}.svg": _standalone(svg) for name, svg in drawn.items() if svg is not None}
    pictures = {out / f"{name}.png": overlay.png for name, overlay in overlays.items()}
    page = out / "evaluation.html"
    for path, written in {page: html.encode(), **figures, **pictures}.items():
        path.write_bytes(written)
    return PagePaths(html=page, figures=tuple(figures), pictures=tuple(pictures))


def _standalone(svg: bytes) -> bytes:
    """In a page a figure takes its text colour; alone it is black on white."""
    return svg.replace(b"<svg ", b'<svg style="background:white;color:#1d2327" ', 1)


def _case_rows(evaluation: Evaluation) -> Iterator[dict]:
    for case in evaluation.cases:
        place = {"case": case.task.name, "site": case.task.site, "split": case.task.split}
        for name in case.scores.classes:
            lesions = MERGED if name in case.task.comparable.merged else APART
            yield {**place, "class": name, "lesions": lesions, **_values(case.scores, name)}
        for name in case.organs.classes if case.organs else ():
            yield {**place, "class": name, "lesions": TOGETHER, **_values(case.organs, name)}


def _values(scores: CaseScores, name: str) -> dict:
    return {column: getattr(scores, column)[name] for column in CASE_COLUMNS[5:]}


def _summary_rows(evaluation: Evaluation) -> Iterator[dict]:
    merged = evaluation.merged
    for summary, together in ((evaluation.classes, False), (evaluation.organs, True)):
        for name, entry in summary.items():
            lesions = TOGETHER if together else MERGED if name in merged else APART
            counts = {column: entry[column] for column in SUMMARY_COLUMNS[6:]}
            for metric in METRICS:
                yield {"class": name, "lesions": lesions, "metric": metric, **entry[metric], **counts}


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping]) -> None:
    """Undefined values are empty cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
