"""A written comparison: a page that stands alone, Markdown, and CSV with the same numbers as the JSON."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_runs

from fedpartial.evaluation.comparison import Comparison, compare
from fedpartial.evaluation.comparison_figures import macro_means, styles, validation_by_steps
from fedpartial.evaluation.comparison_files import MACRO, ComparisonPaths, write_comparison
from fedpartial.evaluation.comparison_tables import (
    cost_table,
    difference_matrix,
    markdown,
    pair_table,
    score_table,
    summary_table,
)
from fedpartial.evaluation.formats import UNDEFINED

METHODS = ("plain", "distilled", "union")
SET_LABELS = ("external", "external, lesions merged", "sites")
HOSTILE = "<script>alert(1)</script>|$x_1$"
PICTURE = ("External case 1", b"\x89PNG made up")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(made_up_runs(METHODS), title="Made up")


@pytest.fixture(scope="module")
def paths(comparison, tmp_path_factory) -> ComparisonPaths:
    return write_comparison(comparison, tmp_path_factory.mktemp("comparison") / "out", [PICTURE])


@pytest.fixture(scope="module")
def html(paths) -> str:
    return paths.html.read_text(encoding="utf-8")


def rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_number_of_the_json(comparison, paths):
    assert json.loads(paths.json.read_text(encoding="utf-8")) == json.loads(json.dumps(comparison.to_json()))
    found = rows(paths.csv)
    assert len(found) == 2 * (2 * (5 + 5 + 4) + 3 * 4), "metrics, sets, methods, classes and the mean over classes"
    for row in found:
        values = comparison.scores[row["set"]][row["metric"]][row["method"]]
        entry = values["macro"] if row["class"] == MACRO else values["classes"][row["class"]]
        assert row["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))
        assert row["seeds"] == str(entry["seeds"])


def test_tests_csv_has_every_pair(comparison, paths):
    found = rows(paths.tests_csv)
    assert [(r["set"], r["a"], r["b"]) for r in found] == [
        (w, t.a, t.b) for w, ts in comparison.tests.items() for t in ts
    ]
    assert len(found) == 1 + 3 + 1 + 1
    assert float(found[0]["wilcoxon_p"]) == comparison.tests["external"][0].wilcoxon_p


def test_score_table_marks_the_best_and_leaves_a_dash_where_a_class_is_missing(comparison):
    table = score_table(comparison, "external", "dice")
    assert table.head == ("method", "seeds", "mean", "liver", "spleen", "kidney", "kidney tumor")
    plain, distilled, union, counts = table.rows
    liver = comparison.scores["external"]["dice"]["distilled"]["classes"]["liver"]
    assert distilled[3].text == f"{liver['mean']:.3f} ± {liver['sd']:.3f}"
    assert [cell.strong for cell in distilled] == [False, False, True, True, True, True, True]
    assert not any(cell.strong for cell in (*plain, *union))
    assert (union[2].text, union[6].text) == (f"{UNDEFINED} (3 of 4)", UNDEFINED)
    assert [cell.text for cell in counts] == ["cases", "", "", "4", "4", "4", "3"]


def test_summary_table_has_the_mean_dice_and_distance_of_every_set(comparison):
    table = summary_table(comparison)
    assert table.head == ("method", *(f"{s}: {m}" for s in SET_LABELS for m in ("Dice", "HD95 (mm)")))
    for row in table.rows:
        method, *cells = (cell.text for cell in row)
        means = [
            score_table(comparison, which, metric) for which in comparison.scores for metric in ("dice", "hd95_mm")
        ]
        assert cells == [next(r[2].text for r in mean.rows if r[0].text == method) for mean in means]
    assert [cell.strong for cell in table.rows[1][1:]] == [True, True] * 3


def test_numbers_of_cases_stand_in_the_cells_where_methods_differ(comparison):
    scores = json.loads(json.dumps(comparison.scores))
    scores["external"]["hd95_mm"]["plain"]["classes"]["liver"]["n"] = 2
    table = score_table(replace(comparison, scores=scores), "external", "hd95_mm")
    assert [row[3].text.endswith(mark) for row, mark in zip(table.rows, ("(2)", "(4)", "(4)", "2 to 4"), strict=True)]
    assert table.rows[0][3].text.endswith(" (2)")
    assert not table.rows[0][4].text.endswith(")")


def test_matrix_is_antisymmetric_and_marks_what_is_significant(comparison):
    test = replace(comparison.tests["all"][0], difference=-0.25, wilcoxon_holm=0.01, mann_whitney_holm=0.2)
    matrix = difference_matrix(replace(comparison, tests={"all": (test,)}), "all")
    assert matrix.head == ("row minus column", "plain", "distilled"), "union has no tests here"
    assert [[cell.text for cell in row] for row in matrix.rows] == [
        ["plain", "", "-0.250*"],
        ["distilled", "+0.250*", ""],
    ]
    assert matrix.rows[0][2].strong
    both = replace(test, mann_whitney_holm=0.01)
    assert difference_matrix(replace(comparison, tests={"all": (both,)}), "all").rows[0][2].text == "-0.250*†"
    organs = difference_matrix(comparison, "external_organs")
    assert len(organs.rows) == 3
    assert not any(cell.strong for row in organs.rows for cell in row), "4 cases give no significance"


def test_pair_table_lists_every_test(comparison):
    table = pair_table(comparison, "external_organs")
    assert [(row[0].text, row[1].text, row[2].text) for row in table.rows] == [
        ("plain", "distilled", "4"),
        ("plain", "union", "4"),
        ("distilled", "union", "4"),
    ]
    assert table.rows[0][-1].text == "0.125"


def test_cost_table_has_times_without_data_preparation_and_commits_with_their_mark(comparison):
    costs = {"plain": {**comparison.costs["plain"], "commits": [None, "c" * 12 + "+"]}}
    table = cost_table(replace(comparison, costs=costs))
    assert "without data preparation" in table.caption
    assert table.rows[0][-1].text == "unknown, cccccccccccc+"


def test_page_says_when_a_mean_distance_is_bold(html):
    assert "in the column of the mean nobody is unless all methods" in html


def test_page_stands_alone_and_names_every_method(html):
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org)|@import|url\((?!#)", html)
    assert len(re.findall(r"<svg", html)) == 2
    assert "data:image/png;base64," in html
    for words in (*METHODS, "Made up", "External case 1", "Before you read the numbers", "3 methods", "9 runs"):
        assert words in html, words
    assert len(re.findall(r"<table", html)) == len(re.findall(r"<caption", html)) == 1 + 2 * 3 + 2 * 4 + 1
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<a href="#([^"]+)"', html)) <= set(ids)


def test_markdown_has_the_same_tables(comparison, paths):
    text = paths.md.read_text(encoding="utf-8")
    assert text.startswith("# Made up\n")
    for table in (score_table(comparison, "sites", "dice"), pair_table(comparison, "all")):
        assert markdown(table) in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) > 40
    assert "**0." in text


def test_hostile_method_names_are_escaped_in_every_file(tmp_path):
    runs = [replace(run, method=HOSTILE) if run.method == "plain" else run for run in made_up_runs(METHODS[:2], (0,))]
    paths = write_comparison(compare(runs, title=HOSTILE), tmp_path)
    page = paths.html.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    lines = [line for line in paths.md.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert set(widths) == {4, 7, 8, 11, 12}, "no cell is torn by a bar in a name"
    assert {row["method"] for row in rows(paths.csv)} == {HOSTILE, "distilled"}


def test_one_method_alone_needs_no_tests_or_pictures(tmp_path):
    page = write_comparison(compare(made_up_runs(("plain",), (0,)), title="t"), tmp_path).html.read_text(
        encoding="utf-8"
    )
    assert "there is nothing to test" in page
    assert "<strong>" not in page, "nobody is best alone"
    assert "nan" not in page.lower().split()


def test_figures_name_every_method_and_are_left_out_without_values(comparison):
    svg = validation_by_steps(comparison.curves).decode()
    assert all(f">{method}<" in svg for method in METHODS)
    means = macro_means(comparison.scores, comparison.methods).decode()
    assert all(f">{method}<" in means for method in METHODS)
    assert validation_by_steps({"plain": []}) is None
    assert macro_means({}, METHODS) is None


def test_every_method_has_a_style_of_its_own():
    given = styles([f"method {i}" for i in range(25)])
    assert len(set(given.values())) == 25
    assert np.array([len(style) for style in given.values()]).sum() == 50
