"""The load of MMDS beside FedAvg: counted from ledger and reports, summed over stages, and both readings of 5,000."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path

import pytest
from made_up_adaptation import adapted_record

import fedpartial
from fedpartial.evaluation.formats import UNDEFINED
from fedpartial.evaluation.load_figure import LOG_FROM, draw_loads
from fedpartial.evaluation.stage_loads import FEDAVG, HEAD, MMDS, StageLoad, cumulated, fedavg_load, readings, rows
from fedpartial.server.ledger import LEDGER, Ledger

BENCHMARKS = Path(fedpartial.__file__).parents[2] / "benchmarks"
STAGES = {"1": ("a", "b"), "2": ("c",)}
MODEL, GLOBAL = 1000, 1200


def load(stage: str, method: str, messages: int = 1, **values) -> StageLoad:
    sent = {"messages_up": messages, "messages_down": messages, "bytes_up": 1000 * messages, "bytes_down": 0}
    return StageLoad(**{"stage": stage, "method": method, **sent, "epochs": 2.0, **values})


def report(sites: tuple[str, ...], rounds: int = 3) -> dict:
    """The part of a report that counts."""
    site = {"loss": 1.0, "val_dice": 0.5, "seconds": 4.0, "bytes_up": MODEL, "bytes_down": MODEL}
    total = {"seconds": 1.0, "bytes_up": MODEL * len(sites), "bytes_down": MODEL * len(sites), "val_dice": 0.5}
    return adapted_record(
        "central",
        rounds=[{"round": n + 1, **total, "sites": dict.fromkeys(sites, site)} for n in range(rounds)],
        pretrain_rounds=0,
    ).to_report()


@pytest.fixture
def store(tmp_path):
    """The ledger of two stages: 40 steps are 4 epochs at a site, 60 steps 5 epochs at the server."""
    ledger = Ledger(tmp_path / "store" / LEDGER)
    for stage, sites in STAGES.items():
        for site in sites:
            ledger.work(stage, site, steps=40, epochs=4.0, seconds=1.0)
            ledger.message(stage, site, "up", "model", MODEL)
        ledger.work(stage, "server", steps=60, epochs=5.0, seconds=1.0)
        for site in sites:
            ledger.message(stage, site, "down", "model", GLOBAL)
    return tmp_path / "store"


@pytest.fixture
def runs(tmp_path):
    """A FedAvg run for each stage: 3 rounds of 20 steps of all the sites so far."""
    folders, sites = [], ()
    for stage, new in STAGES.items():
        sites += new
        folder = tmp_path / f"run{stage}"
        (folder / "job/app/config").mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report(sites)))
        (folder / "job/app/config/config_fed_server.json").write_text(json.dumps({"local_steps": 20}))
        folders.append(folder)
    return folders


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mmds_load")


def test_a_stage_of_fedavg_has_a_model_up_and_down_for_every_site_and_round():
    found = fedavg_load("2", report(("a", "b", "c")), 20, {"a": 0.1, "b": 0.1, "c": 0.2})
    assert found == StageLoad(
        stage="2",
        method=FEDAVG,
        messages_up=9,
        messages_down=9,
        bytes_up=9 * MODEL,
        bytes_down=9 * MODEL,
        epochs=pytest.approx(3 * 20 * 0.4),
    )
    assert fedavg_load("2", report(("a",)), 20, {}).epochs is None, "unknown is not 0"


def test_stages_add_up_by_method():
    loads = [load("1", MMDS, 2), load("1", FEDAVG, 20), load("2", MMDS, server_epochs=3.0), load("2", FEDAVG, 30)]
    total = cumulated(loads)
    assert [(t.stage, t.method, t.messages_up, t.bytes_up) for t in total] == [
        ("1", MMDS, 2, 2000),
        ("1", FEDAVG, 20, 20_000),
        ("2", MMDS, 3, 3000),
        ("2", FEDAVG, 50, 50_000),
    ]
    assert (total[2].epochs, total[2].server_epochs) == (4.0, 3.0)
    unknown = cumulated([load("1", FEDAVG, epochs=None), load("2", FEDAVG)])
    assert [t.epochs for t in unknown] == [None, None]
    assert all(len(row) == len(HEAD) for row in rows(unknown))


def test_both_readings_of_the_papers_5000():
    loads = [load("1", MMDS, 2), load("2", MMDS, 1), load("1", FEDAVG, 2 * 8), load("2", FEDAVG, 3 * 8)]
    said = readings(loads, 8)
    assert said[0] == "Paper, last stage, uploads: 5,000 of FedAvg (R = 1000) against 1 of MMDS, 5,000 times"
    assert said[1] == "Paper, all stages, uploads: 14,000 of FedAvg (R = 1000) against 5 of MMDS, 2,800 times"
    assert "Measured here, last stage, uploads: 24 of FedAvg (R = 8) against 1 of MMDS, 24 times" in said
    assert (
        "The same with the paper's rounds, last stage: 3,000 of FedAvg (R = 1000) against 1 of MMDS, 3,000 times"
        in (said)
    )
    assert "Measured here, all stages, uploads: 40 of FedAvg (R = 8) against 3 of MMDS, 13.3 times" in said
    assert "no number of times" in readings([load("1", MMDS, 0), load("1", FEDAVG)], 8)[2]


def test_small_bars_beside_large_ones_stand_on_a_logarithmic_axis(monkeypatch):
    from matplotlib.axes import Axes

    scales = []
    monkeypatch.setattr(Axes, "set_yscale", lambda self, scale: scales.append(scale))
    draw_loads([load("1", MMDS), load("1", FEDAVG, LOG_FROM, bytes_down=1000)])
    assert scales == ["log"] * 4, "models and bytes, alone and cumulative; epochs are near"


def test_the_command_counts_what_ledger_and_reports_hold(script, store, runs, tmp_path, monkeypatch, capsys):
    from PIL import Image

    given = ["mmds_load.py", str(store), "--fedavg", *map(str, runs), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", given)
    script.main()
    text = (tmp_path / "out/loads.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 2")]
    alone, together = lines[:2], lines[2:]
    assert alone == [
        ["2", "MMDS", "1", "1", "1.0 kB", "1.2 kB", "4.0", "5.0"],
        ["2", "FedAvg", "9", "9", "9.0 kB", "9.0 kB", "18.0", UNDEFINED],
    ]
    assert together[0][2:] == ["3", "3", "3.0 kB", "3.6 kB", "12.0", "10.0"]
    assert together[1][2:] == ["15", "15", "15.0 kB", "15.0 kB", "30.0", UNDEFINED]
    assert Image.open(io.BytesIO((tmp_path / "out/loads.png").read_bytes())).size > (900, 500)


def test_stages_without_a_run_are_refused(script, store, runs):
    with pytest.raises(SystemExit, match="2 stages in the ledger, and 1 runs"):
        script.all_loads(store, runs[:1])
    (runs[1] / "report.json").write_text(json.dumps(report(("a",), rounds=4)))
    with pytest.raises(SystemExit, match=r"different numbers of rounds: \[3, 4\]"):
        script.all_loads(store, runs)
