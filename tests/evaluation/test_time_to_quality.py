"""Time and bytes to a quality: hand-computed legs, the parts they are made of, and models kept from a run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedpartial
from fedpartial.training.model_file import model_info, save_model
from fedpartial.training.plan import Plan

BENCHMARKS = Path(fedpartial.__file__).parents[2] / "benchmarks"
MB = 1_000_000


@pytest.fixture
def script(monkeypatch):
    """``script("simulated_time")``: the module of that name in benchmarks/."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def moment(script, name: str, cpu: dict[str, float], number: int | None = None, kept: str | None = None):
    return script("watched_run").Moment(name=name, round=number, seconds=0.0, cpu_seconds=cpu, kept=kept)


def report(*rounds: dict[str, int]) -> dict:
    """Rounds with the megabytes that each site sends; it receives half."""
    sites = [{s: {"bytes_up": mb * MB, "bytes_down": mb * MB // 2} for s, mb in given.items()} for given in rounds]
    return {"rounds": [{"sites": given} for given in sites], "exchange": {"fine_tuning_bytes_down": 4 * MB}}


def test_a_leg_lasts_as_long_as_its_slowest_site_and_then_the_server(script):
    module = script("simulated_time")
    sites = {"a": module.Share(train=3.0, up=10 * MB), "b": module.Share(train=5.0, validate=1.0, down=MB)}
    leg = module.Leg(name="round 1", sites=sites, server=2.0)
    fast, slow = module.total([leg], mbit=1000), module.total([leg], mbit=10)
    assert sum(fast.values()) == pytest.approx(5.0 + 1.0 + 0.008 + 2.0)  # b
    assert sum(slow.values()) == pytest.approx(3.0 + 8.0 + 2.0)  # a, whose 10 MB take 8 s at 10 Mbit/s
    assert slow["up"] == pytest.approx(8.0)
    assert leg.bytes == 11 * MB
    assert module.Leg.from_dict(json.loads(json.dumps(leg.to_dict()))) == leg


def test_the_first_round_is_split_into_start_and_training(script):
    split = script("measured_legs").split_start
    assert split([10.0, 4.0, 5.0], [0.0, 1.0, 1.0]) == [(6.5, 3.5), (0.0, 3.0), (0.0, 4.0)]
    assert split([2.0, 4.0, 4.0], [0.0, 0.0, 0.0]) == [(0.0, 2.0), (0.0, 4.0), (0.0, 4.0)]
    assert split([7.0], [1.0]) == [(0.0, 6.0)]
    assert split([], []) == []


def test_legs_of_rounds(script):
    server = script("watched_run").SERVER
    moments = [
        moment(script, "round 1", {server: 9.0, "a": 12.0}, 1),
        moment(script, "round 2", {server: 10.0, "a": 18.0, "b": 4.0}, 2),
        moment(script, "final evaluation", {server: 10.5, "a": 18.0, "b": 4.0}),
    ]
    legs = script("measured_legs").measured_legs(
        moments, report({"a": 2}, {"a": 2, "b": 2}), {"a": 1.0, "b": 1.0}, [False, True]
    )
    assert [leg.name for leg in legs] == ["round 1", "round 2", "before final evaluation"]
    share = script("simulated_time").Share
    assert legs[0].sites == {"a": share(start=7.0, train=5.0, up=2 * MB, down=MB)}
    assert legs[1].sites["a"] == share(train=5.0, validate=1.0, up=2 * MB, down=MB)
    assert legs[1].sites["b"] == share(train=3.0, validate=1.0, up=2 * MB, down=MB)
    assert (legs[0].start, legs[0].server, legs[1].server, legs[2].server) == (8.0, 1.0, 1.0, 0.5)


def test_nothing_travels_where_no_message_is_needed(script):
    legs = script("measured_legs").measured_legs(
        [moment(script, "round 1", {"a": 1.0}, 1)], report({"a": 2}), {}, [False], exchanged=False
    )
    assert legs[0].bytes == 0


def test_legs_of_phases(script):
    names = ("local training at a, b", "distillation of a, b", "distribution and scores")
    cpu = ({"": 3.0, "a": 2.0}, {"": 4.0, "a": 22.0, "b": 30.0}, {"": 50.0, "a": 22.0, "b": 30.0})
    moments = [moment(script, name, seconds) for name, seconds in zip(names, cpu, strict=True)]
    start, training, distillation = script("measured_legs").measured_legs(
        moments, report({"a": 2, "b": 2}), {}, [False]
    )
    assert start.start == 5.0
    assert {site: share.train for site, share in training.sites.items()} == {"a": 20.0, "b": 30.0}
    assert training.bytes == 4 * MB
    assert (distillation.server, distillation.sites) == (46.0, {})


def test_fine_tuning_sends_the_trunk_once_more(script):
    names = ("fine-tuning", "collecting heads")
    moments = [moment(script, name, {"a": i, "b": i}) for i, name in enumerate(names)]
    assert script("measured_legs").measured_legs(moments, report(), {}, [])[1].bytes == 4 * MB


def quality(script, job: str) -> dict:
    """A run of two rounds with 0.7 and 0.9, in which one site sends 1 MB a round and the images count 3 MB."""
    module = script("simulated_time")
    share = module.Share(train=10.0, up=MB)
    legs = [
        module.Leg(name="images", sites={"h": module.Share(up=3 * MB)}),
        module.Leg(name="round 1", sites={"a": share}),
    ]
    legs = [*legs, module.Leg(name="round 2", sites={"a": share})]
    points = [
        {"name": f"round {i}", "legs": i, "seconds": 20.0 * i, "cpu_seconds": {"": 5.0 * i}, "organ_dice": dice}
        for i, dice in ((1, 0.7), (2, 0.9))
    ]
    return {
        "job": job,
        "commit": "abc1234",
        "before": True,
        "points": points,
        "legs": [leg.to_dict() for leg in legs],
        "collect": module.Leg(name="collecting models").to_dict(),
        "report": {
            "organ_dice": 0.9,
            "selected": None,
            "message_bytes": MB,
            "bytes": [2 * MB, 2 * MB],
            "seconds": [1.0, 1.0],
        },
    }


def test_bytes_and_time_until_the_target(script, capsys):
    tables, found = script("quality_tables"), quality(script, "central")
    point = tables.reached(found, 0.8)
    assert point["name"] == "round 2"
    assert tables.megabytes(found, point) == 5.0
    assert sum(tables.simulated(found, point, 8.0).values()) == pytest.approx(3.0 + 2 * 11.0)
    assert tables.reached(found, 0.95) is None
    tables.print_tables([found], 0.8, [8.0])
    shown = capsys.readouterr().out
    assert "| central | round 2 | 40 | 10 | 25 | 0.900 (round 2) | abc1234 |" in shown
    assert "scores" not in shown
    tables.print_tables([{**found, "report": {**found["report"], "organ_dice": 0.8}}], 0.8, [8.0])
    assert "0.900000 here and 0.800000 in its report" in capsys.readouterr().out


def test_labels_keep_their_distance_and_their_order(script):
    places = script("cost_quality_figure").label_places([0.9, 0.905, 0.3, 0.99], 0.05, 0.99)
    assert sorted(range(4), key=lambda i: places[i]) == [2, 0, 1, 3]
    assert min(np.diff(sorted(places))) >= 0.05 - 1e-9
    assert max(places) <= 0.99


def test_the_figure_draws_every_method_it_has_a_style_for(script):
    module = script("cost_quality_figure")
    found = {job: quality(script, job) for job in (*module.SAME_DATA, *module.OWN_PRESETS)}
    figure = module.draw(found, 100.0, 0.8)
    assert len(figure.axes) == 4
    assert sum(len(ax.texts) for ax in figure.axes) == 2 * len(found)


def test_every_method_has_a_style(script):
    module = script("cost_quality_figure")
    assert {*module.SAME_DATA, *module.OWN_PRESETS} == set(script("time_to_quality").JOBS)


def test_a_kept_model_outlives_the_next_round(script, tmp_path):
    module, plan = script("watched_run"), Plan(job="j", preset="phantom", num_rounds=2, local_steps=1)
    server = tmp_path / "workspace" / module.SERVER_APP
    server.mkdir(parents=True)
    keeper = module.ModelKeeper(tmp_path / "workspace", tmp_path / "kept")
    for number in (1, 2):
        save_model(server / module.GLOBAL_MODEL, {"w": np.full(3, number)}, model_info(plan, number))
        keeper.keep_round(number)
    kept = [module.read_info(path / module.GLOBAL_MODEL).round_number for path in sorted((tmp_path / "kept").iterdir())]
    assert kept == [1, 2]
    with pytest.raises(RuntimeError, match="holds round 2, expected 3"):
        keeper.keep_round(3)


def test_progress_lines_are_read_once_and_whole(script, tmp_path):
    path = tmp_path / "progress.jsonl"
    lines = script("watched_run")._lines(path)
    assert next(lines) == []
    path.write_text('{"event": "plan"}\n{"event": "ro')
    assert next(lines) == [{"event": "plan"}]
    with path.open("a") as file:
        file.write('und"}\n')
    assert next(lines) == [{"event": "round"}]
    path.unlink()
    assert next(lines) == []


def test_cpu_time_belongs_to_the_site_of_the_process(script):
    module = script("watched_run")
    work = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    site = [sys.executable, "-c", work, "--client", "liver"]
    server = f"import subprocess; subprocess.run({site!r}); input()"
    with subprocess.Popen([sys.executable, "-c", server], stdin=subprocess.PIPE, env=os.environ) as running:
        clock = module.ProcessClock(running.pid)
        while clock.seconds().get("liver", 0.0) < 0.05:
            clock.look()
        running.stdin.write(b"\n\n")
        running.stdin.close()
        running.wait()
    clock.look()
    assert set(clock.seconds()) == {"", "liver"}
    assert clock.seconds()["liver"] >= 0.05
