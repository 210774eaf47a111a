"""What a site that keeps its cases to itself sends instead, and how the report shows it."""

from __future__ import annotations

import copy
import csv
import json

import pytest

from fedpartial.errors import ConfigError
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.report import ReportPaths, RunRecord, write_report
from fedpartial.evaluation.summary import macro_mean, summarise
from fedpartial.evaluation.table import console_table
from fedpartial.evaluation.withhold import WITHHELD, is_withheld, read_summary, withhold
from fedpartial.presets import ABDOMEN


def case(dice: float | None, status: str = "scored", name: str = "liver") -> CaseScores:
    far = 2.0 if status == "scored" else None
    numbers = {"dice": dice, "hd95_mm": far, "assd_mm": far, "leakage": 0.1}
    return CaseScores(**{field: {name: value} for field, value in numbers.items()}, status={name: status})


def liver(cases: list[CaseScores], min_cases: int = 2) -> dict:
    return withhold(summarise(cases, ABDOMEN), min_cases)["liver"]


def test_enough_cases_keep_every_number():
    cases = [case(d) for d in (0.5, 0.7, 0.9)]
    assert liver(cases) == summarise(cases, ABDOMEN)["liver"]


def test_one_case_keeps_nothing():
    entry = liver([case(0.5)])
    assert is_withheld(entry)
    assert entry["dice"] == entry["hd95_mm"] == entry["assd_mm"] == WITHHELD
    assert (entry["leakage"], entry["missed"], entry["false_positive"]) == (None, None, None)
    assert "0.5" not in json.dumps(entry)


def test_two_cases_keep_their_mean_but_not_the_deviation_that_would_give_both_away():
    dice = liver([case(0.5), case(0.9)])["dice"]
    assert dice == {"mean": pytest.approx(0.7), "sd": None, "n": 2}


def test_a_single_found_case_among_missed_ones_is_withheld():
    """Missed cases are known to be 0, so mean times n would be the Dice of the other."""
    assert is_withheld(liver([case(0.9), case(0.0, "missed"), case(0.0, "missed")]))


def test_two_found_cases_among_missed_ones_have_no_deviation():
    entry = liver([case(0.9), case(0.7), case(0.0, "missed")])
    assert entry["dice"] == {"mean": pytest.approx(1.6 / 3), "sd": None, "n": 3}
    assert entry["hd95_mm"]["sd"] is None
    assert entry["missed"] == 1


def test_a_class_missed_in_every_case_is_told():
    assert liver([case(0.0, "missed")] * 3)["dice"] == {"mean": 0.0, "sd": 0.0, "n": 3}


def test_a_site_may_ask_for_more_cases():
    cases = [case(d) for d in (0.5, 0.7, 0.9)]
    assert is_withheld(liver(cases, min_cases=4))
    assert not is_withheld(liver(cases, min_cases=3))


def test_a_class_that_no_case_contains_is_withheld_like_a_rare_one():
    assert is_withheld(liver([case(None, "absent")]))


def test_a_withheld_class_leaves_the_mean_over_classes():
    rare = summarise([case(0.1, name="spleen")], ABDOMEN)
    summary = withhold({**summarise([case(0.5), case(0.7)], ABDOMEN), **rare}, 2)
    assert macro_mean(summary) == pytest.approx(0.6)


# --- at the server ------------------------------------------------------------------------------------


def test_a_summary_survives_json_and_is_read_in_the_order_of_the_label_space():
    sent = withhold(summarise([case(0.5), case(0.7)], ABDOMEN) | summarise([case(0.1, name="spleen")], ABDOMEN), 2)
    back = read_summary(json.loads(json.dumps({name: sent[name] for name in ("spleen", "liver")})), ABDOMEN.classes)
    assert back == sent
    assert list(back) == ["liver", "spleen"]


def changed(*path, value) -> dict:
    summary = withhold(summarise([case(0.5), case(0.7)], ABDOMEN), 2)
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return summary


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("patient",), {}),
        (("liver", "cases"), [0.5, 0.7]),
        (("liver", "dice", "values"), [0.5]),
        (("liver", "dice", "mean"), "0.5"),
        (("liver", "dice", "mean"), 1.5),
        (("liver", "dice", "mean"), float("nan")),
        (("liver", "dice", "mean"), True),
        (("liver", "dice", "n"), 2.0),
        (("liver", "dice", "n"), 10**40),
        (("liver", "hd95_mm"), [1.0]),
        (("liver", "leakage"), -0.1),
        (("liver", "missed"), -1),
    ],
)
def test_anything_else_is_no_summary(path, value):
    with pytest.raises((ConfigError, ValueError)):
        read_summary(changed(*path, value=value), ABDOMEN.classes)


# --- in the report ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(record_parts) -> RunRecord:
    """The made-up run, in which the site north sends summaries only."""
    parts = copy.deepcopy(record_parts)
    del parts["cases"]["north"]
    parts["sites"]["north"] = withhold(parts["sites"]["north"], 2)
    parts["sites"]["north"]["liver_tumor"] = withhold({"x": parts["sites"]["north"]["liver_tumor"]}, 9)["x"]
    return RunRecord(**parts)


@pytest.fixture(scope="module")
def paths(kept, tmp_path_factory) -> ReportPaths:
    return write_report(kept, tmp_path_factory.mktemp("kept"))


def test_the_report_of_summaries_has_the_means_of_the_cases(record, paths):
    sites = json.loads(json.dumps(record.to_report()))["sites"]
    ours = json.loads(paths.json.read_text(encoding="utf-8"))["sites"]
    assert ours["south"] == sites["south"]
    for field in ("mean", "n"):
        assert ours["north"]["liver"]["dice"][field] == sites["north"]["liver"]["dice"][field]
    rows = csv.DictReader(paths.scores_csv.read_text(encoding="utf-8").splitlines())
    north = {row["class"]: row for row in rows if row["site"] == "north"}
    assert (north["liver"]["case"], north["liver"]["status"]) == ("all", "mean")
    assert float(north["liver"]["dice"]) == sites["north"]["liver"]["dice"]["mean"]
    assert (north["liver_tumor"]["status"], north["liver_tumor"]["dice"]) == ("withheld", "")


def test_page_and_table_say_withheld(kept, paths):
    from rich.console import Console

    html = paths.html.read_text(encoding="utf-8")
    assert html.count(">withheld</span>") == 1 + 3, "one cell by place, three at the site"
    assert "north withholds its scores of liver tumor: too few cases stand behind them." in html
    assert "None" not in html
    console = Console(width=100)
    with console.capture() as shown:
        console.print(console_table(kept))
    assert shown.get().count("withheld") == 1
