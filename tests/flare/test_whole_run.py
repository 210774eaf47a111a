"""Both workflows of a job with FLARE's own parts: the result is that of the in-process federation, bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nvflare.apis.dxo import from_shareable

from federation import federate, tiny_plan
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.fedopt import FedOptGenerator
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
from fedpartial.flare.weights import METRICS
from fedpartial.methods.base import LossTerms
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.training.checkpoint import read_tensors
from fedpartial.training.model_file import load_model


def assert_equal(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    assert not [name for name in a if not np.array_equal(a[name], b[name])]


@pytest.mark.parametrize("lasting", [True, False], ids=["lasting processes", "a new process per task"])
def test_the_global_model_is_that_of_the_plain_federation(make_server, tiny_sites, tmp_path, lasting):
    server = make_server(FedOptGenerator(), ConDistFL(), lasting=lasting)
    server.run(evaluate=False)
    expected = federate(tiny_sites, tiny_plan(), ConDistFL(), tmp_path / "plain", ServerSGD())[-1]
    found, info = load_model(server.app / GLOBAL_MODEL)
    assert_equal(found, expected)
    assert info.round_number == 2


@pytest.fixture
def finished(make_server):
    server = make_server(None, FedAvg(), lasting=False)
    server.run()
    return server


def test_a_whole_run_leaves_models_and_a_report(finished, tiny_sites, tmp_path):
    expected = federate(tiny_sites, tiny_plan(), FedAvg(), tmp_path / "plain")
    assert_equal(load_model(finished.app / GLOBAL_MODEL)[0], expected[-1])
    report = json.loads((finished.app / "report.json").read_text(encoding="utf-8"))
    validate_report(report)
    assert len(report["rounds"]) == 2
    assert set(report["sites"]) == {"liver", "spleen"}
    assert set(report["cross_site"]) >= {"final", "local liver", "local spleen"}
    assert all(r["val_dice"] is not None for r in report["rounds"])
    chosen, best = report["selected_model"], load_model(finished.app / BEST_MODEL)
    assert_equal(best[0], expected[chosen["round"] - 1])
    assert (best[1].round_number, best[1].val_dice) == (chosen["round"], pytest.approx(chosen["val_dice"]))

    evaluation = finished.engine.workflows[-1]
    for name, hospital in finished.link.hospitals.items():
        trained, _ = read_tensors(hospital.app / "local_model.safetensors")
        scored = evaluation._local_models[name]
        assert set(scored) == set(trained)
        for tensor, value in trained.items():
            np.testing.assert_allclose(scored[tensor], value.numpy(), rtol=0, atol=1e-6)

    events = [line["event"] for line in finished.progress()]
    assert events.count("update") == 4
    assert events.count("round") == 2
    assert events[0] == "plan"
    assert events[-1] == "report"
    assert "failure" not in events
    assert "panic" not in events


def test_a_site_that_fails_is_named_with_its_reason_and_the_others_go_on(make_server, without_figures):
    server = make_server(None, FedAvg(), num_rounds=1)
    spleen = server.link.hospitals["spleen"]
    path = spleen.root / "local" / "sites" / "spleen.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_root": str(spleen.root / "mrs_miller")}))
    server.run(min_clients=1)
    lines = server.progress()
    failures = [line for line in lines if line["event"] == "failure"]
    assert {line["site"] for line in failures} == {"spleen"}
    assert "data_root" in failures[0]["reason"]
    report = (server.app / "report.json").read_text(encoding="utf-8")
    assert any("spleen" in note and "data_root" in note for note in json.loads(report)["notes"])
    assert set(json.loads(report)["sites"]) == {"liver"}
    assert "miller" not in report + json.dumps(lines)
    assert "mrs_miller" in json.loads((spleen.app / "site_failure.json").read_text(encoding="utf-8"))["error"]


class Diverging(FedAvg):
    """A loss that is not a number."""

    def loss(self, *arguments):
        terms = super().loss(*arguments)
        return LossTerms(total=terms.total * float("nan"), parts=terms.parts)


def test_a_site_that_only_failed_to_train_still_gives_scores_and_the_report_says_so(make_server, without_figures):
    server = make_server(None, FedAvg(), num_rounds=1)
    server.link.hospitals["spleen"].method = Diverging()
    server.run(min_clients=1)
    assert "loss is nan" in next(line for line in server.progress() if line["event"] == "failure")["reason"]
    report = json.loads((server.app / "report.json").read_text(encoding="utf-8"))
    assert set(report["sites"]) == {"liver", "spleen"}, "its data is as good as ever"
    assert not [note for note in report["notes"] if "spleen gave no scores" in note]


def poison(hospital) -> None:
    """From now on this hospital's updates hold NaN."""
    execute = hospital.execute

    def poisoned(task_name, task, signal=None):
        answer = execute(task_name, task, signal)
        if task_name == "train":
            next(iter(from_shareable(answer).data.values()))[:] = np.nan
        return answer

    hospital.execute = poisoned


def test_a_bad_update_never_reaches_the_global_model(make_server):
    """With one site enough, the other one alone decides."""
    server = make_server(None, FedAvg(), num_rounds=1)
    poison(server.link.hospitals["spleen"])
    server.run(min_clients=1, evaluate=False)
    found, _ = load_model(server.app / GLOBAL_MODEL)
    assert all(np.isfinite(value).all() for value in found.values())
    updates = [line["site"] for line in server.progress() if line["event"] == "update"]
    assert updates == ["liver"]


def test_a_refused_update_is_reported_with_site_and_tensor(make_server):
    """docs/architecture.md: the job stops with that message."""
    server = make_server(None, FedAvg())
    poison(server.link.hospitals["spleen"])
    server.run()
    assert server.engine.signal.triggered
    assert not (server.app / "report.json").exists()
    said = json.dumps([line for line in server.progress() if line["event"] in ("failure", "panic")])
    for part in ("spleen", "input_block.conv1.conv.weight", "NaN"):
        assert part in said


def exaggerate(hospital, dice: float) -> None:
    """From now on this hospital reports this Dice, whatever the model."""
    execute = hospital.execute

    def exaggerated(task_name, task, signal=None):
        answer = execute(task_name, task, signal)
        dxo = from_shareable(answer)
        dxo.data.get("validation", {}).update(final={"spleen": dice})
        if METRICS in dxo.meta and dxo.meta[METRICS]["val_dice"]:
            dxo.meta[METRICS]["val_dice"] = {"spleen": dice}
        return dxo.update_shareable(answer)

    hospital.execute = exaggerated


@pytest.mark.parametrize("dice", [float("nan"), 7.0])
def test_impossible_scores_of_a_site_choose_no_model(make_server, without_figures, dice):
    """A NaN is neither better nor worse: every model after it would be the best one."""
    server = make_server(None, FedAvg())
    exaggerate(server.link.hospitals["spleen"], dice)
    server.run(min_clients=1)
    report = json.loads((server.app / "report.json").read_text(encoding="utf-8"))
    assert [set(r["sites"]) for r in report["rounds"]] == [{"liver", "spleen"}, {"liver"}]
    assert set(report["sites"]) == {"liver"}
    assert report["rounds"][-1]["val_dice"] == report["rounds"][-1]["sites"]["liver"]["val_dice"]
    reasons = [line["reason"] for line in server.progress() if line["event"] == "failure"]
    assert [reason.split(" refused")[0] for reason in reasons] == ["update from spleen", "scores from spleen"]
    assert any("scores from spleen refused" in note for note in report["notes"])


@pytest.mark.parametrize("moment", ["first round", "final evaluation"])
def test_an_abort_leaves_no_report_and_no_model_that_was_not_chosen(make_server, moment):
    """An aborted evaluation has not scored the final model, so it may not become the best one."""
    server = make_server(None, FedAvg())
    liver = server.link.hospitals["liver"]
    execute = liver.execute

    def aborted(task_name, task, signal=None):
        if task_name == ("train" if moment == "first round" else "validate"):
            server.engine.signal.trigger("abort")
        return execute(task_name, task, signal)

    liver.execute = aborted
    server.run()
    assert server.engine.signal.triggered
    assert not (server.app / "report.json").exists()
    if (server.app / BEST_MODEL).exists():
        assert load_model(server.app / BEST_MODEL)[1].round_number == 1
