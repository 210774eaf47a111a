"""The report: a contract in JSON, two CSV files, and a page that stands alone."""

from __future__ import annotations

import copy
import csv
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedpartial.evaluation.figures import dice_by_class
from fedpartial.evaluation.record import EXTERNAL_NAMES
from fedpartial.evaluation.report import ReportPaths, RunRecord, load_schema, read_report, validate_report, write_report
from fedpartial.evaluation.table import console_table

LATER_FIELDS = {"external_heads", "pretrain_rounds"} | {
    f"{kind}_{what}" for kind in ("adapted", "unadapted") for what in ("sites", "cases")
}
"""Reports of earlier versions lack them."""
HOSTILE = "<script>alert(1)</script>\"'&$x_1$"


@pytest.fixture
def report(record) -> dict:
    return record.to_report()


@pytest.fixture(scope="module")
def paths(record, tmp_path_factory) -> ReportPaths:
    """One written report for the tests that only look at it."""
    return write_report(record, tmp_path_factory.mktemp("report") / "deep" / "out")


@pytest.fixture(scope="module")
def page(paths) -> Page:
    return Page(paths.html.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_schema_is_valid_and_accepts_a_full_report(report):
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(load_schema())
    validate_report(report)
    assert set(report) == {*load_schema()["required"], *LATER_FIELDS} == set(load_schema()["properties"])


def test_schema_accepts_a_minimal_report(record_parts):
    empty = {"sites": {}, "external": {}, "rounds": [], "device": {}, "precision": {}, "versions": {}, "commit": None}
    kept = {key: record_parts[key] for key in ("job", "seed", "preset", "empty_class_policy")}
    validate_report(RunRecord(**kept, **empty).to_report())


def test_every_top_level_field_but_later_ones_is_required_and_no_other_is_allowed(report):
    for key in report.keys() - LATER_FIELDS:
        with pytest.raises(ValueError, match=f"'{key}' is a required property"):
            validate_report({k: v for k, v in report.items() if k != key})
    with pytest.raises(ValueError, match="hostname"):
        validate_report(report | {"hostname": "gpu01"})
    validate_report({key: value for key, value in report.items() if key not in LATER_FIELDS})
    assert len(report) == 18 + len(LATER_FIELDS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), "7"),
        (("commit",), 5),
        (("empty_class_policy",), "ignore"),
        (("rounds", 0, "bytes_up"), 1.5),
        (("rounds", 0, "val_dice"), 1.1),
        (("rounds", 1, "sites", "north", "loss"), "low"),
        (("rounds", 1, "sites", "north", "file"), "x"),
        (("sites", "north", "liver", "dice", "n"), -1),
        (("external", "liver", "dice", "median"), 0.5),
        (("external", "liver", "leakage"), math.nan),
        (("phases", "train"), math.inf),
        (("cases", "north", 0, "case"), "liver_042.nii.gz"),
        (("cases", "north", 0, "path"), "x"),
        (("selected_model", "round"), -1),
        (("cross_site", "global", "north", "liver"), 2),
        (("notes",), "a note"),
    ],
)
def test_wrong_values_are_refused_and_named(report, path, value):
    broken = copy.deepcopy(report)
    parent = broken
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape("/" + "/".join(str(p) for p in path[:2]))):
        validate_report(broken)


@pytest.mark.parametrize("name", EXTERNAL_NAMES)
def test_a_site_may_not_be_called_like_the_external_set(report, name):
    with pytest.raises(ValueError, match=f"/sites/{name}: this name is kept"):
        validate_report(report | {"sites": {name: {}}})


def test_nothing_is_written_when_the_record_breaks_the_contract(record_parts, tmp_path):
    with pytest.raises(ValueError, match="/seed"):
        write_report(RunRecord(**record_parts | {"seed": None}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_hold_the_record(record, paths):
    assert read_report(paths.json) == record.to_report()
    rows = _rows(paths.scores_csv)
    assert len(rows) == 3 * 7 + 2 * 2 + 2 * 1
    assert rows[0] == {
        "site": "external", "case": "1", "class": "liver", "dice": "1.0", "hd95_mm": "0.0", "assd_mm": "0.0",
        "status": "scored", "leakage": "0.0",
    }  # fmt: skip
    pancreas = next(row for row in rows if row["class"] == "pancreas")
    assert (pancreas["dice"], pancreas["status"]) == ("", "absent")
    rounds = _rows(paths.rounds_csv)
    assert [(r["round"], r["site"]) for r in rounds[:3]] == [("0", "(federation)"), ("0", "north"), ("0", "south")]
    assert len(rounds) == 9


def test_page_shows_every_site_class_and_picture(record, page):
    for words in ("north", "south", "liver tumor", "spleen", "fedavg", "A made-up run.", "External case 1", "0.650"):
        assert words in page.text, words
    assert {tag["data-class"] for tag in page.all("tr") if "data-class" in tag} == set(record.external)
    assert len(page.all("svg")) == 5
    assert len(page.all("img")) == len(record.overlays) == 1


def test_page_opens_offline(paths, page):
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key.endswith(("src", "href"))]
    assert len(links) > 5
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"@import|url\((?!#)", paths.html.read_text(encoding="utf-8"))


def test_page_is_accessible(page):
    assert len(page.all("table")) == len(page.all("caption")) > 4
    assert all(attrs.get("scope") for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert sum(attrs.get("role") == "img" and bool(attrs["aria-label"]) for _, attrs in page.tags) == 5
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in page.all("a")}
    assert targets <= set(ids)


def test_hostile_names_are_escaped_everywhere(record_parts, tmp_path):
    parts = copy.deepcopy(record_parts)
    for key in ("sites", "device", "precision", "cases"):
        parts[key] = {HOSTILE if name == "north" else name: value for name, value in parts[key].items()}
    for entry in parts["rounds"]:
        entry["sites"] = {HOSTILE if name == "north" else name: v for name, v in entry["sites"].items()}
    parts["cross_site"] = {HOSTILE: {HOSTILE: {"liver": 0.5}}}
    parts |= {"notes": [HOSTILE], "exchange": {HOSTILE: HOSTILE}, "phases": {HOSTILE: 1.0}, "job": HOSTILE}
    page = Page(write_report(RunRecord(**parts), tmp_path).html.read_text(encoding="utf-8"))
    assert not page.all("script")
    assert page.text.count(HOSTILE) >= 10
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]


def test_names_that_matplotlib_would_hide_or_typeset_keep_their_curve(record_parts, tmp_path):
    parts = copy.deepcopy(record_parts)
    for entry in parts["rounds"]:
        entry["sites"] = {"_a$b_$": entry["sites"]["north"], "東京": entry["sites"]["south"]}
    html = write_report(RunRecord(**parts), tmp_path).html.read_text(encoding="utf-8")
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    for name in ("_a$b_$", "東京"):
        assert sum(name in figure for figure in drawn) == 3, "validation, loss and traffic name their sites"


def test_no_file_path_in_any_file(paths):
    for path in (paths.json, paths.scores_csv, paths.rounds_csv, paths.html):
        text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text(encoding="utf-8"))
        assert str(paths.html.parent) not in text
        assert ".nii" not in text
        assert not re.search(r"(/home|/work|/tmp|/usr|/root)/", text)


def test_report_is_the_same_every_time(record, paths, tmp_path):
    assert write_report(record, tmp_path).html.read_bytes() == paths.html.read_bytes()


def test_page_without_external_set_rounds_or_pictures(record_parts, tmp_path):
    bare = {"external": {}, "rounds": [], "overlays": (), "cross_site": {}, "selected_model": None, "cases": {}}
    bare |= {"exchange": {}, "phases": {}, "commit": None}
    page = Page(write_report(RunRecord(**record_parts | bare), tmp_path).html.read_text(encoding="utf-8"))
    assert "There is no external set" in page.text
    assert len(page.all("svg")) == 1, "the means of the sites, which sent no cases"
    assert "nan" not in page.text.lower().split()


def test_cautions_name_classes_at_zero_and_absent_sites(record_parts, without_figures, tmp_path):
    parts = copy.deepcopy(record_parts)
    parts["external"]["spleen"]["dice"] = {"mean": 0.0, "sd": 0.0, "n": 3}
    parts["external"]["liver"]["leakage"] = 0.2
    del parts["rounds"][1]["sites"]["south"]
    text = Page(write_report(RunRecord(**parts), tmp_path).html.read_text(encoding="utf-8")).text
    assert "The model never found spleen in the external set: Dice 0 in 3 cases." in text
    assert "20.0 % of liver in the external set" in text
    assert "south took no part in 1 of 3 rounds." in text
    assert "No case of the external set has a Dice for pancreas" in text


def test_console_table_has_a_row_per_class_and_fits_80_columns(record, report):
    from rich.console import Console

    for given in (record, report):
        table = console_table(given)
        assert [str(column.header) for column in table.columns] == ["class", "external", "north", "south"]
        assert table.row_count == 7
        console = Console(width=80, file=io.StringIO())
        console.print(table)
        text = console.file.getvalue()
        assert f"{record.external['liver']['dice']['mean']:.3f} (3)" in text
        assert "liver tumor" in text
        assert "…" not in text


def test_a_site_that_only_scores_does_not_load_the_drawing_libraries():
    code = (
        "import sys; from fedpartial.evaluation import metrics, summary, report, overlays, table;"
        "print(sorted({'matplotlib', 'jinja2', 'jsonschema', 'nibabel', 'rich', 'torch', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_with_lesions_merged_have_a_table_of_their_own(record_parts, paths, without_figures, tmp_path):
    assert "data-organ" not in paths.html.read_text(encoding="utf-8")
    organs = {"liver": record_parts["external"]["liver"]}
    written = write_report(RunRecord(**record_parts | {"external_organs": organs}), tmp_path)
    page = written.html.read_text(encoding="utf-8")
    assert page.count("data-organ=") == 1
    assert 'data-organ="liver"' in page
    assert read_report(written.json)["external_organs"] == organs


def test_scores_of_single_heads_are_kept_apart_from_those_of_sites(record_parts, cases, without_figures, tmp_path):
    heads = {"liver": record_parts["external"]["liver"]}
    more = {"external_heads": heads, "cases": {**cases, "external_heads": cases["external"]}}
    written = write_report(RunRecord(**record_parts | more), tmp_path)
    report = read_report(written.json)
    assert report["external_heads"] == heads
    assert report["cases"]["external_heads"] == report["cases"]["external"]
    assert sum(row["site"] == "external_heads" for row in _rows(written.scores_csv)) == 3 * 7
    without = {**report, "cases": {name: c for name, c in report["cases"].items() if name != "external_heads"}}
    assert dice_by_class(report, ("liver",)) == dice_by_class(without, ("liver",)), "they would count as a site's"
