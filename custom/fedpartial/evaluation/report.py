"""Write the report of a run: report.json (the contract), two CSV files, and report.html for people."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpartial.evaluation.page import render_page
from fedpartial.evaluation.record import Overlay, RunRecord, load_schema, validate_report
from fedpartial.evaluation.summary import METRICS
from fedpartial.evaluation.withhold import is_withheld
from fedpartial.labels import LabelSpace
from fedpartial.presets import get_preset

__all__ = ["Overlay", "ReportPaths", "RunRecord", "load_schema", "read_report", "validate_report", "write_report"]

SCORE_COLUMNS = ("site", "case", "class", "dice", "hd95_mm", "assd_mm", "status", "leakage")
ROUND_COLUMNS = ("round", "site", "loss", "val_dice", "seconds", "bytes_up", "bytes_down")
ADAPTED_COLUMNS = ("way", *SCORE_COLUMNS)
WHOLE = "(federation)"
"""Site column of the rows of rounds.csv that are about the whole federation."""


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """The files of one report; ``adapted_csv`` only of a run with site adaptation."""

    json: Path
    html: Path
    scores_csv: Path
    rounds_csv: Path
    adapted_csv: Path | None = None


def write_report(record: RunRecord, out_dir: Path, *, space: LabelSpace | None = None) -> ReportPaths:
    """Validate ``record`` against the schema and write its files into ``out_dir`` (made if needed).

    space: order and groups of the classes; by default those of the record's preset. Raises ValueError,
    before any file is written, if the record breaks the contract.
    """
    report = record.to_report()
    space = space or get_preset(record.preset).label_space
    html = render_page(report, record.overlays, space)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(
        json=out_dir / "report.json",
        html=out_dir / "report.html",
        scores_csv=out_dir / "scores.csv",
        rounds_csv=out_dir / "rounds.csv",
        adapted_csv=out_dir / "adapted_scores.csv" if record.adapted_sites else None,
    )
    paths.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths.html.write_text(html, encoding="utf-8")
    _write_csv(paths.scores_csv, SCORE_COLUMNS, _score_rows(report["sites"], report["cases"]))
    if paths.adapted_csv is not None:
        _write_csv(paths.adapted_csv, ADAPTED_COLUMNS, _adapted_rows(report))
    _write_csv(paths.rounds_csv, ROUND_COLUMNS, _round_rows(report))
    return paths


def read_report(path: Path) -> dict:
    """The content of a report.json, checked against the schema."""
    report = json.loads(path.read_text(encoding="utf-8"))
    validate_report(report)
    return report


def _score_rows(summaries: Mapping, cases: Mapping) -> Iterator[dict]:
    for site, found in cases.items():
        for case in found:
            for name in case["status"]:
                values = {key: case[key][name] for key in SCORE_COLUMNS[3:]}
                yield {"site": site, "case": case["case"], "class": name, **values}
    for site in (name for name in summaries if name not in cases):
        yield from _summary_rows(site, summaries[site])


def _adapted_rows(report: Mapping) -> Iterator[dict]:
    for way, summaries in report["adapted_sites"].items():
        for row in _score_rows(summaries, report["adapted_cases"].get(way, {})):
            yield {"way": way, **row}


def _summary_rows(site: str, summary: Mapping) -> Iterator[dict]:
    """A site that sends no cases has one row per class, with its means."""
    for name, entry in summary.items():
        means = {metric: entry[metric]["mean"] for metric in METRICS}
        status = "withheld" if is_withheld(entry) else "mean"
        yield {"site": site, "case": "all", "class": name, **means, "status": status, "leakage": entry["leakage"]}


def _round_rows(report: Mapping) -> Iterator[dict]:
    for entry in report["rounds"]:
        yield {"site": WHOLE, **{key: value for key, value in entry.items() if key != "sites"}}
        for site, values in entry["sites"].items():
            yield {"round": entry["round"], "site": site, **values}


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping]) -> None:
    """Undefined values are empty cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
