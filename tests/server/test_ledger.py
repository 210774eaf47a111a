"""The ledger: what is noted is counted, by stage and site, and a crash costs at most the line it has torn."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedpartial.server.ledger import Ledger, Load


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "federation" / "ledger.jsonl")


def test_a_ledger_that_nobody_has_written_is_empty(ledger):
    assert (ledger.read(), ledger.summary()) == ([], ())
    assert not ledger.path.parent.exists()


def test_messages_and_work_are_counted_by_stage_and_site_and_cumulated(ledger):
    ledger.message("second", "liver", "up", "model", 100)
    ledger.message("first", "spleen", "up", "model", 10)
    ledger.message("second", "liver", "down", "global", 7)
    ledger.message("first", "liver", "down", "global", 5)
    ledger.work("first", "spleen", steps=40, epochs=2.5, seconds=3.0)
    ledger.work("first", "server", steps=9, epochs=1, seconds=2)
    ledger.work("second", "spleen", steps=2, epochs=0.5, seconds=1.0)
    second, first = ledger.summary()
    assert [second.stage, first.stage] == ["second", "first"], "in the order in which they appear"
    assert second.alone.sites == {
        "liver": Load(messages_up=1, bytes_up=100, messages_down=1, bytes_down=7),
        "spleen": Load(steps=2, epochs=0.5, seconds=1.0),
    }
    assert first.alone.server == Load(steps=9, epochs=1.0, seconds=2.0)
    assert first.alone.all_sites == Load(
        messages_up=1, bytes_up=10, messages_down=1, bytes_down=5, steps=40, epochs=2.5, seconds=3.0
    )
    assert second.cumulative == second.alone
    assert first.cumulative.sites["liver"] == Load(messages_up=1, bytes_up=100, messages_down=2, bytes_down=12)
    assert first.cumulative.all_sites == second.alone.all_sites + first.alone.all_sites


def test_every_line_says_what_was_given_and_when(ledger):
    ledger.message("one", "liver", "up", "model", 100)
    (record,) = ledger.read()
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "record": "message",
        "stage": "one",
        "site": "liver",
        "direction": "up",
        "kind": "model",
        "bytes": 100,
    }


@pytest.mark.parametrize("torn", [b'{"time": "2026-', b'{"record": "message", "stage": "\xc3', b"\x00\x00\x00", b"{}"])
def test_a_torn_last_line_does_not_count_and_the_next_one_starts_anew(ledger, torn, caplog):
    ledger.message("one", "liver", "up", "model", 100)
    with ledger.path.open("ab") as file:
        file.write(torn)
    with caplog.at_level(logging.WARNING):
        assert [record["bytes"] for record in ledger.read()] == [100]
    assert "line 2" in caplog.text
    ledger.message("one", "liver", "down", "global", 7)
    assert [record["bytes"] for record in ledger.read()] == [100, 7]


def test_a_whole_line_whose_end_is_missing_counts_once(ledger):
    ledger.message("one", "liver", "up", "model", 100)
    ledger.path.write_bytes(ledger.path.read_bytes()[:-1])
    assert len(ledger.read()) == 1
    ledger.message("one", "liver", "up", "model", 101)
    assert [record["bytes"] for record in ledger.read()] == [100, 101]


@pytest.mark.parametrize("change", [{"direction": "sideways"}, {"bytes": "many"}, {"record": "gossip"}])
def test_a_line_of_another_meaning_does_not_count(ledger, change):
    ledger.message("one", "liver", "up", "model", 100)
    line = {**ledger.read()[0], **change}
    ledger.path.write_text(json.dumps(line) + "\n")
    assert ledger.summary() == ()


@pytest.mark.parametrize(("site", "direction"), [("liver", "sideways"), ("server", "up")])
def test_a_message_is_between_a_site_and_the_server(ledger, site, direction):
    with pytest.raises(ValueError, match="a message goes"):
        ledger.message("one", site, direction, "model", 1)
    assert not ledger.path.exists()


def test_threads_write_whole_lines(ledger):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledger.message("one", f"site-{number}", "up", "model", 1), range(20)))
    assert ledger.summary()[0].alone.all_sites == Load(messages_up=20, bytes_up=20)
