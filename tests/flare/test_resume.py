"""An interrupted run that is continued ends with the model of one that was never interrupted, bit for bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.app_event_type import AppEventType

from fedpartial.flare.fedopt import FedOptGenerator
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.server.run_state import RUN_STATE, load_run_state
from fedpartial.training.model_file import load_model

pytestmark = pytest.mark.usefixtures("without_figures")
FIRST_JOB = "7a2c6f0e-1b7d-4a86-9c43-0123456789ab"
SECOND_JOB = "7a2c6f0e-1b7d-4a86-9c43-ba9876543210"


class StopAfter(FLComponent):
    """Ends the job as an administrator's abort does, after a number of rounds."""

    def __init__(self, server, rounds: int):
        super().__init__()
        self.server, self.left = server, rounds

    def handle_event(self, event_type, fl_ctx) -> None:
        if event_type == AppEventType.ROUND_DONE:
            self.left -= 1
            if not self.left:
                self.server.engine.signal.trigger("abort")


def interrupt(server, rounds: int) -> None:
    server.engine.components["stop"] = StopAfter(server, rounds)
    server.run(evaluate=False)
    assert server.engine.signal.triggered


def continue_from(first, second, job: str = FIRST_JOB) -> None:
    """What ``fedpartial resume`` puts into the server's app, and what the first job left at the sites."""
    for name in (RUN_STATE, BEST_MODEL):
        if (first.app / name).exists():
            second.app.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first.app / name, second.app / name)
    for name, hospital in second.link.hospitals.items():
        left = hospital.root / job / f"app_{name}"
        left.mkdir(parents=True)
        shutil.copytree(first.link.hospitals[name].app / "state", left / "state")


def same_tensors(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_interrupted_twice_and_continued_equals_uninterrupted(make_server):
    """The third job finds the sites' state in the folder of the second, which took it from the first."""
    method = {"generator": FedOptGenerator(), "method": ConDistFL(), "num_rounds": 3}
    whole = make_server(**method)
    whole.run()
    first = make_server(folder="first", **{**method, "generator": FedOptGenerator()})
    interrupt(first, 1)
    second = make_server(folder="second", **{**method, "generator": FedOptGenerator()}, resumed_jobs=[FIRST_JOB])
    continue_from(first, second, FIRST_JOB)
    interrupt(second, 1)
    jobs = [SECOND_JOB, FIRST_JOB]
    third = make_server(folder="third", **{**method, "generator": FedOptGenerator()}, resumed_jobs=jobs)
    continue_from(second, third, SECOND_JOB)
    third.run()

    expected, found = (load_model(server.app / GLOBAL_MODEL) for server in (whole, third))
    assert same_tensors(found[0], expected[0])
    assert not same_tensors(found[0], load_model(second.app / GLOBAL_MODEL)[0])
    assert found[1].round_number == 3
    states = [load_run_state(server.app / RUN_STATE) for server in (whole, third)]
    assert same_tensors(states[0].velocity, states[1].velocity)

    reports = [json.loads((server.app / "report.json").read_text(encoding="utf-8")) for server in (whole, third)]
    kept = [[(r["round"], r["val_dice"], r["bytes_up"]) for r in report["rounds"]] for report in reports]
    assert kept[0] == kept[1]
    assert reports[0]["selected_model"] == reports[1]["selected_model"]
    assert [server.progress()[0]["finished_rounds"] for server in (whole, second, third)] == [0, 1, 2]
    assert not [line for line in (*second.progress(), *third.progress()) if line["event"] == "optimizer"]


def test_without_the_state_of_the_sites_the_result_is_another(make_server):
    """The check above would see a forgotten momentum."""
    whole = make_server(None, FedAvg(), num_rounds=2)
    whole.run(evaluate=False)
    first = make_server(folder="first", generator=None, method=FedAvg(), num_rounds=2)
    interrupt(first, 1)
    second = make_server(folder="second", generator=None, method=FedAvg(), num_rounds=2)
    continue_from(first, second)
    second.run(evaluate=False)
    expected, found = (load_model(server.app / GLOBAL_MODEL)[0] for server in (whole, second))
    assert not same_tensors(found, expected)
    told = [(line["site"], line["state"]) for line in second.progress() if line["event"] == "optimizer"]
    assert told == [("liver", "a fresh optimiser"), ("spleen", "a fresh optimiser")]


def panics(server) -> list[str]:
    return [line["reason"] for line in server.progress() if line["event"] == "panic"]


def test_a_run_with_other_schedules_does_not_continue(make_server):
    first = make_server(folder="first", generator=None, method=FedAvg(), num_rounds=3)
    interrupt(first, 1)
    for name, value in {"seed": 4, "num_rounds": 2, "local_steps": 9}.items():
        second = make_server(folder=name, generator=None, method=FedAvg(), **{"num_rounds": 3, name: value})
        continue_from(first, second)
        second.run()
        assert f"{name}: got {value}" in panics(second)[0]
        assert not (second.app / GLOBAL_MODEL).exists()


def test_a_run_that_only_lacks_its_evaluation_gets_its_report_and_trains_nothing(make_server):
    first = make_server(folder="first", generator=None, method=FedAvg(), num_rounds=1)
    first.run(evaluate=False)
    second = make_server(folder="second", generator=None, method=FedAvg(), num_rounds=1)
    continue_from(first, second)
    second.run()
    assert not panics(second)
    assert not [line for line in second.progress() if line["event"] == "update"]
    assert same_tensors(*(load_model(server.app / GLOBAL_MODEL)[0] for server in (first, second)))
    report = json.loads((second.app / "report.json").read_text(encoding="utf-8"))
    assert len(report["rounds"]) == 1
    assert set(report["sites"]) == {"liver", "spleen"}


@pytest.mark.parametrize("change", ["method", "seed"])
def test_a_site_does_not_take_over_the_optimiser_of_another_run(make_server, change):
    """Whoever names the interrupted job must not get another run's momentum mixed into the updates."""
    first = make_server(folder="first", generator=None, method=FedAvg(), num_rounds=2)
    interrupt(first, 1)
    other = make_server(folder="other", generator=None, method=FedAvg(), num_rounds=2, seed=9)
    interrupt(other, 1)
    method = ConDistFL() if change == "method" else FedAvg()
    second = make_server(folder="second", generator=None, method=method, num_rounds=2, resumed_jobs=[FIRST_JOB])
    continue_from(first, second)
    if change == "seed":
        for name, hospital in second.link.hospitals.items():
            left = hospital.root / FIRST_JOB / f"app_{name}" / "state"
            shutil.rmtree(left)
            shutil.copytree(other.link.hospitals[name].app / "state", left)
    second.run(min_clients=1)
    assert "liver: a field: expected the optimiser of" in panics(second)[0]
    assert "spleen: a field: expected the optimiser of" in panics(second)[0]
    assert not [line for line in second.progress() if line["event"] == "update"]


def test_a_damaged_state_is_refused_before_anything_is_trained(make_server):
    server = make_server(None, FedAvg(), num_rounds=2)
    server.app.mkdir(parents=True, exist_ok=True)
    (server.app / RUN_STATE).write_bytes(b"\x80\x04pickle")
    server.run()
    assert RUN_STATE in panics(server)[0]
    assert not [line for line in server.progress() if line["event"] == "update"]
