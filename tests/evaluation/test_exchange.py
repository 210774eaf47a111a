"""The exchange in the report: facts that fit the contract, and a page that shows them."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

from fedpartial.evaluation.exchange import exchange_facts, exchange_section
from fedpartial.evaluation.record import RunRecord
from fedpartial.evaluation.report import read_report, write_report

pytestmark = pytest.mark.usefixtures("without_figures")
TRUNK = {"trunk.0.weight": np.ones((2, 3), np.float32), "trunk.1.bias": np.ones(4, np.float32)}
HEADS = {
    "south": {"heads.spleen.weight": np.ones(10, np.float32)},
    "north": {"heads.liver.weight": np.ones(10, np.float32), "heads.liver.bias": np.ones(20, np.float32)},
}


def noted(number: int, *, changed: int | None = 2, unchanged: list | None = None, sites: int = 2, **site) -> dict:
    one = {"tensors_up": 2, "bytes_up": 40, "tensors_not_zero": 2, "tensors_taken": 2, "bytes_received": 40, **site}
    return {
        "round": number,
        "tensors_down": 2,
        "bytes_down": 40,
        "sites": {f"site {i}": dict(one) for i in range(sites)},
        "tensors_changed": changed,
        "unchanged": [] if unchanged is None and changed is not None else unchanged,
    }


def test_equal_rounds_stand_in_one_row():
    rounds = [noted(1, changed=1, unchanged=["trunk.1.bias"]), *(noted(n) for n in (2, 3, 4)), noted(5, sites=1)]
    rows = exchange_section(exchange_facts(rounds, TRUNK, {}))["rounds"]
    assert [(r["first"], r["last"], r["sites"], r["tensors_changed"]) for r in rows] == [
        (1, 1, 2, 1),
        (2, 4, 2, 2),
        (5, 5, 1, 2),
    ]
    assert (rows[0]["tensors_down"], rows[0]["bytes_down"], rows[0]["tensors_up"], rows[0]["bytes_up"]) == (
        2,
        40,
        2,
        40,
    )


def test_the_row_of_a_round_is_that_of_its_least_update():
    uneven = noted(1)
    uneven["sites"]["site 1"] |= {"tensors_up": 1, "bytes_up": 16, "tensors_not_zero": 0}
    (row,) = exchange_section(exchange_facts([uneven], TRUNK, {}))["rounds"]
    assert (row["tensors_up"], row["bytes_up"], row["tensors_not_zero"]) == (1, 40, 0)


def test_the_network_of_a_site_is_what_it_shares_and_what_it_keeps():
    found = exchange_section(exchange_facts([noted(1)], TRUNK, HEADS))
    assert {k: found["shared"][k] for k in ("tensors", "parameters", "bytes")} == {
        "tensors": 2,
        "parameters": 10,
        "bytes": 40,
    }
    assert found["networks"] == {
        "north": {
            "whole": {"tensors": 4, "parameters": 40, "bytes": 160},
            "kept": {"tensors": 2, "parameters": 30, "bytes": 120},
            "share": 0.25,
        },
        "south": {
            "whole": {"tensors": 3, "parameters": 20, "bytes": 80},
            "kept": {"tensors": 1, "parameters": 10, "bytes": 40},
            "share": 0.5,
        },
    }


def test_a_tensor_that_one_aggregate_changed_has_changed():
    rounds = [
        noted(1, changed=0, unchanged=["trunk.0.weight", "trunk.1.bias"]),
        noted(2, changed=1, unchanged=["trunk.1.bias"]),
    ]
    assert exchange_facts(rounds, TRUNK, {})["never_changed"] == ["trunk.1.bias"]
    assert exchange_facts([noted(1, changed=None)], TRUNK, {})["never_changed"] == []


def test_a_report_of_an_earlier_version_keeps_its_facts():
    found = exchange_section({"tensors": 3, "parameters": 7, "bytes_per_message": 28, "messages": 12})
    assert (found["shared"], found["networks"], found["rounds"]) == (None, {}, [])
    assert found["other"] == {"messages": 12}


@pytest.fixture
def page(record_parts, tmp_path):
    """Writes a report with this exchange; its page, and what read_report finds again."""

    def make(exchange: dict, **changes) -> tuple[str, dict]:
        paths = write_report(RunRecord(**copy.deepcopy(record_parts) | {"exchange": exchange} | changes), tmp_path)
        return paths.html.read_text(encoding="utf-8"), read_report(paths.json)

    return make


def section(html: str) -> str:
    return re.sub(r"\s+", " ", re.search(r'<section id="exchange">.*?</section>', html, flags=re.DOTALL)[0])


def test_the_page_shows_what_travels_and_what_stays(page):
    facts = exchange_facts([noted(1), noted(2), noted(3, changed=1, unchanged=["trunk.1.bias"])], TRUNK, HEADS)
    html, report = page({**facts, "bytes_up": 2400, "bytes_down": 4800})
    assert report["exchange"]["rounds_tensors_changed"] == [2, 2, 1]
    shown = section(html)
    for text in ("A part of the network travels", "2 tensors", "40 bytes in each message", "2.4 kB", "4.8 kB"):
        assert text in shown, text
    assert '<th scope="row">1 to 2</th>' in shown
    assert "1 of 2</td>" in shown
    assert "A run ends with an error when a private tensor moves" in shown
    assert "25.0 %" in shown
    assert shown.count("<code>trunk.") == 2
    assert 'href="#exchange"' in html


def test_the_page_of_a_job_that_shares_everything_has_no_table_of_networks(page):
    shown = section(page(exchange_facts([noted(1)], TRUNK, {}))[0])
    assert "The whole network travels" in shown
    assert shown.count("<table>") == 1


def test_the_page_of_standalone_training_says_that_nothing_is_aggregated(page):
    shown = section(page(exchange_facts([noted(1, changed=None)], TRUNK, {}))[0])
    assert "nothing is aggregated" in shown
    assert "every site goes on from its own model" in shown
    assert "ends with an error" not in shown
    assert " of 2</td>" not in shown


def test_a_report_without_an_exchange_has_no_section(page):
    assert "#exchange" not in page({})[0]


def test_classes_scored_by_their_own_heads_have_a_table_of_their_own(page, record_parts):
    liver = copy.deepcopy(record_parts["external"]["liver"])
    liver["dice"]["mean"] = 0.123
    html, report = page({}, external_heads={"liver": liver})
    assert report["external_heads"]["liver"]["dice"]["mean"] == 0.123
    assert html.count("data-head=") == 1
    assert 'data-head="liver"' in html


@pytest.mark.parametrize("equal", [True, False], ids=["as the label map", "no heads"])
def test_scores_of_heads_that_say_nothing_new_are_left_out(page, record_parts, equal):
    html, _ = page({}, external_heads=record_parts["external"] if equal else {})
    assert "data-head=" not in html
