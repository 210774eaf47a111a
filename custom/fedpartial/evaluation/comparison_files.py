"""Write a comparison: JSON, HTML for people, Markdown for other documents, and two CSV files in long format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fedpartial.evaluation.comparison import Comparison
from fedpartial.evaluation.comparison_page import Pictures, render_html, render_markdown
from fedpartial.evaluation.comparison_scores import METRICS
from fedpartial.evaluation.significance import PairedTest

MACRO = "(mean)"
"""Class column of the rows of comparison.csv that are means over a method's num_classes classes; their n is empty."""
SCORE_COLUMNS = ("set", "method", "class", "metric", "mean", "sd", "seeds", "n", "num_classes")
TEST_COLUMNS = ("set", *(field.name for field in fields(PairedTest)))


@dataclass(frozen=True, kw_only=True)
class ComparisonPaths:
    """The files of one comparison."""

    json: Path
    html: Path
    md: Path
    csv: Path
    tests_csv: Path


def write_comparison(comparison: Comparison, out_dir: Path, pictures: Pictures = ()) -> ComparisonPaths:
    """Write the five files into ``out_dir`` (made if needed). pictures: (title, PNG bytes) for the page."""
    html, text = render_html(comparison, pictures), render_markdown(comparison)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = ComparisonPaths(
        json=out_dir / "comparison.json",
        html=out_dir / "comparison.html",
        md=out_dir / "comparison.md",
        csv=out_dir / "comparison.csv",
        tests_csv=out_dir / "tests.csv",
    )
    paths.json.write_text(json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths.html.write_text(html, encoding="utf-8")
    paths.md.write_text(text, encoding="utf-8")
    _write_csv(paths.csv, SCORE_COLUMNS, _score_rows(comparison))
    _write_csv(paths.tests_csv, TEST_COLUMNS, _test_rows(comparison))
    return paths


def _score_rows(comparison: Comparison) -> Iterator[dict]:
    for which, scores in comparison.scores.items():
        for metric in METRICS:
            for method, values in scores[metric].items():
                entries = values["classes"] | {MACRO: values["macro"] | {"num_classes": values["num_classes"]}}
                for name, entry in entries.items():
                    place = {"set": which, "method": method, "class": name, "metric": metric}
                    yield place | {key: entry.get(key) for key in SCORE_COLUMNS[4:]}


def _test_rows(comparison: Comparison) -> Iterator[dict]:
    for which, tests in comparison.tests.items():
        for test in tests:
            yield {"set": which} | asdict(test)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping]) -> None:
    """Undefined values are empty cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
