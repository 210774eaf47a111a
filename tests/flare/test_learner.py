"""A site under FLARE's LearnerExecutor: what it answers, and what never leaves it."""

from __future__ import annotations

import errno
import json
import logging

import numpy as np
import pytest
from in_process import Engine, context, on_the_wire
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.learner_executor import LearnerExecutor
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from tiny_hospital import write_case, write_nifti

from federation import TINY, federate, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.flare.failure import FAILURE_FILE, REASON_HEADER
from fedpartial.flare.learner import MODELS, VALIDATED, SiteLearner
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.weights import METRICS, payload_bytes
from fedpartial.methods.base import LossTerms
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg

PATIENT = "mrs_miller_1950"


def train_task(weights: dict, number: int = 0, **plan) -> Shareable:
    task = DXO(data_kind=DataKind.WEIGHTS, data={n: v.copy() for n, v in weights.items()}).to_shareable()
    task.set_header(AppConstants.CURRENT_ROUND, number)
    RunPlan(**tiny_plan(**plan).to_dict()).attach(task)
    return task


def score_task(models: dict) -> Shareable:
    task = Shareable()
    task[MODELS], task[VALIDATED] = models, list(models)
    RunPlan(**tiny_plan().to_dict()).attach(task)
    return task


# --- training -----------------------------------------------------------------------------------------


def test_train_answers_with_a_weight_difference(make_hospital, weights, tiny_sites, tmp_path):
    reply = on_the_wire(make_hospital(method=FedAvg()).execute("train", train_task(weights)))
    assert reply.get_return_code() == ReturnCode.OK
    dxo = from_shareable(reply)
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) == 2
    assert list(dxo.data) == list(weights)
    assert {value.dtype for value in dxo.data.values()} == {np.dtype(np.float32)}
    metrics = dxo.get_meta_prop(METRICS)
    assert metrics["bytes_down"] == payload_bytes(weights) == payload_bytes(dxo.data)
    assert {key: metrics[key] for key in ("device", "source", "num_training", "annotated", "val_dice")} == {
        "device": "cpu",
        "source": "site file",
        "num_training": 2,
        "annotated": {"liver": 1, "liver_tumor": 1},
        "val_dice": {},
    }
    assert np.isfinite([metrics["loss"], metrics["dice"], metrics["ce"], metrics["seconds"]]).all()


def test_the_update_is_that_of_the_plain_session(make_hospital, tiny_sites, tmp_path):
    """One site, one round: global weights of the federation minus the initial ones."""
    plan = tiny_plan(num_rounds=1)
    only = {"liver": tiny_sites["liver"]}
    expected = federate(only, plan, ConDistFL(), tmp_path / "plain")[0]
    start = federate_start(plan)
    reply = make_hospital().execute("train", train_task(start, num_rounds=1))
    update = from_shareable(reply).data
    assert all(np.array_equal(start[name] + update[name], expected[name]) for name in start)


def federate_start(plan) -> dict:
    from fedpartial.networks.build import build_network
    from fedpartial.networks.canonical import canonical_state

    return {n: t.numpy() for n, t in canonical_state(build_network(TINY, seed=plan.seed)).items()}


def test_later_rounds_bring_the_dice_of_the_incoming_model(make_hospital, weights):
    reply = make_hospital().execute("train", train_task(weights, 1))
    dxo = from_shareable(reply)
    dice = dxo.get_meta_prop(METRICS)["val_dice"]
    assert dice
    assert set(dice) <= {"liver", "liver_tumor"}
    mean = sum(dice.values()) / len(dice)
    assert dxo.get_meta_prop(MetaKey.INITIAL_METRICS) == {"val_dice": pytest.approx(mean)}


def test_the_local_model_is_what_was_trained(make_hospital, weights):
    hospital = make_hospital(lasting=False)
    update = from_shareable(hospital.execute("train", train_task(weights))).data
    reply = on_the_wire(hospital.execute("submit_model", Shareable()))
    dxo = from_shareable(reply)
    assert dxo.data_kind == DataKind.WEIGHTS
    assert set(dxo.data) == set(weights)
    for name, value in dxo.data.items():
        np.testing.assert_allclose(value, weights[name] + update[name], rtol=0, atol=1e-6)


def test_another_plan_opens_another_session(make_hospital, weights):
    hospital = make_hospital(method=FedAvg())
    first = from_shareable(hospital.execute("train", train_task(weights))).data
    (hospital.app / "state").rename(hospital.app / "state-before")
    other = from_shareable(hospital.execute("train", train_task(weights, local_steps=3)))
    assert other.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) == 3
    assert any(not np.array_equal(first[name], other.data[name]) for name in first)


# --- scoring ------------------------------------------------------------------------------------------


def test_every_model_of_a_task_is_scored(make_hospital, weights):
    other = {name: value + 0.1 for name, value in weights.items()}
    models = {"final": weights, "best": other, "local spleen": other}
    reply = on_the_wire(make_hospital().execute("validate", score_task(models)))
    dxo = from_shareable(reply)
    assert dxo.data_kind == DataKind.METRICS
    assert list(dxo.data["validation"]) == ["final", "best"]
    assert list(dxo.data["testing"]) == ["final", "best", "local spleen"]
    for cases in dxo.data["testing"].values():
        assert [CaseScores.from_dict(case).classes for case in cases] == [("liver", "liver_tumor")]
    assert dxo.data["testing"]["best"] == dxo.data["testing"]["local spleen"]


def test_a_site_validates_the_models_that_are_asked_for_but_never_anothers_local_one(make_hospital, weights):
    models = dict.fromkeys(("final", "best", "local liver", "local spleen"), weights)
    task = score_task(models)
    task[VALIDATED] = ["best", "local liver", "local spleen"]
    dxo = from_shareable(on_the_wire(make_hospital().execute("validate", task)))
    assert list(dxo.data["validation"]) == ["best", "local liver"]
    assert list(dxo.data["testing"]) == list(models)


@pytest.mark.parametrize("start", ["own", "Local", "", None])
def test_a_wrong_start_is_refused_before_anything_is_trained(start):
    with pytest.raises(ConfigError) as caught:
        SiteLearner(FedAvg(), start)
    assert caught.value.field == "args.start_from"


# --- abort --------------------------------------------------------------------------------------------


def triggered() -> Signal:
    signal = Signal()
    signal.trigger("abort")
    return signal


def test_an_abort_of_training_sends_and_leaves_nothing(make_hospital, weights):
    hospital = make_hospital()
    reply = hospital.execute("train", train_task(weights), triggered())
    assert reply.get_return_code() == ReturnCode.TASK_ABORTED
    assert "DXO" not in reply
    assert not (hospital.app / "state").exists()
    assert not (hospital.app / "local_model.safetensors").exists()
    assert not (hospital.app / FAILURE_FILE).exists(), "an abort is no failure"


def test_an_abort_of_scoring_sends_no_scores_of_a_part_of_the_cases(make_hospital, weights):
    reply = make_hospital().execute("validate", score_task({"final": weights}), triggered())
    assert reply.get_return_code() == ReturnCode.TASK_ABORTED


# --- failures: the whole story stays at the site -------------------------------------------------------


class Diverging(FedAvg):
    def loss(self, *arguments):
        terms = super().loss(*arguments)
        return LossTerms(total=terms.total * float("nan"), parts=terms.parts)


def no_datalist(hospital, weights):
    """ConfigError whose value and place hold the patient's name."""
    edit_site(hospital, data_root=str(hospital.root / PATIENT))
    (hospital.root / PATIENT).mkdir()
    return train_task(weights), f"{PATIENT}/datalist.json"


def no_folder(hospital, weights):
    edit_site(hospital, data_root=str(hospital.root / PATIENT))
    return train_task(weights), PATIENT


def a_broken_image(hospital, weights):
    """DataFaults that list files."""
    root = hospital.root / PATIENT
    entry = write_case(root, PATIENT)
    write_nifti(root / entry["image"], np.full((16, 14, 12), np.nan, np.float32))
    (root / "datalist.json").write_text(json.dumps({"training": [entry]}))
    edit_site(hospital, data_root=str(root), cache_dir=str(hospital.root / "cache"))
    return train_task(weights), PATIENT


def a_repeated_image(hospital, weights):
    root = hospital.root / PATIENT
    entry = write_case(root, PATIENT)
    (root / "datalist.json").write_text(json.dumps({"training": [entry], "validation": [entry]}))
    edit_site(hospital, data_root=str(root))
    return train_task(weights), PATIENT


def an_unknown_label(hospital, weights):
    edit_site(hospital, labels={"1": PATIENT})
    return train_task(weights), PATIENT


def a_label_key_that_is_no_number(hospital, weights):
    edit_site(hospital, labels={PATIENT: "liver"})
    return train_task(weights), PATIENT


def an_unknown_key(hospital, weights):
    edit_site(hospital, **{PATIENT: 1})
    return train_task(weights), PATIENT


def an_unknown_key_in_the_datalist(hospital, weights):
    root = hospital.root / "data"
    entry = write_case(root, "a")
    (root / "datalist.json").write_text(json.dumps({"training": [{**entry, PATIENT: "x"}]}))
    edit_site(hospital, data_root=str(root))
    return train_task(weights), PATIENT


def weights_that_do_not_fit(hospital, weights):
    return train_task({"surplus": np.zeros(2, np.float32), **weights}), "surplus"


def a_plan_of_another_make(hospital, weights):
    task = train_task(weights)
    task.set_header("fedpartial_plan", {"lr": 1})
    return task, "lr"


def divergence(hospital, weights):
    hospital.method = Diverging()
    return train_task(weights), "loss is nan at step 0"


def edit_site(hospital, **changes) -> None:
    path = hospital.root / "local" / "sites" / f"{hospital.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FAULTS = (
    no_datalist,
    no_folder,
    a_broken_image,
    a_repeated_image,
    an_unknown_label,
    a_label_key_that_is_no_number,
    an_unknown_key,
    an_unknown_key_in_the_datalist,
    weights_that_do_not_fit,
    a_plan_of_another_make,
    divergence,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_failure_is_told_without_paths_names_and_values(make_hospital, weights, tmp_path, fault):
    hospital = make_hospital()
    task, detail = fault(hospital, weights)
    reply = on_the_wire(hospital.execute("train", task))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert reply.get_header(REASON_HEADER)
    assert PATIENT not in repr(reply)
    assert str(tmp_path) not in repr(reply)
    assert "/" not in reply.get_header(REASON_HEADER)
    assert "DXO" not in reply
    failure = json.loads((hospital.app / FAILURE_FILE).read_text(encoding="utf-8"))
    assert failure["site"] == "liver"
    assert detail in failure["error"], "the site itself learns everything"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_the_error_log_names_no_patient(make_hospital, weights, caplog, fault):
    """Provisioned FLARE sites stream error_log.txt to the server (SiteLogStreamer, allow_log_streaming true)."""
    hospital = make_hospital()
    task, _ = fault(hospital, weights)
    hospital.execute("train", task)
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not [message for message in errors if PATIENT in message]


def test_an_unexpected_failure_is_written_down_and_left_to_flare(make_hospital, weights, monkeypatch):
    """FLARE answers such an exception itself, with a return code and no text."""
    hospital = make_hospital()

    def broken(*_):
        raise OSError(f"/data/{PATIENT}.nii.gz is gone")

    monkeypatch.setattr("fedpartial.flare.learner.read_site", broken)
    with pytest.raises(OSError, match=PATIENT):
        hospital.execute("train", train_task(weights))
    failure = json.loads((hospital.app / FAILURE_FILE).read_text(encoding="utf-8"))
    assert failure["kind"] == "OSError"
    assert PATIENT in failure["error"]


def test_a_full_disk_is_told_without_the_folder(make_hospital, weights, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / PATIENT))

    monkeypatch.setattr("fedpartial.data.store.write_case", full)
    hospital = make_hospital()
    edit_site(hospital, cache_dir=str(tmp_path / PATIENT))
    reply = on_the_wire(hospital.execute("train", train_task(weights)))
    assert reply.get_header(REASON_HEADER).startswith("no space left for the prepared cases (details at the site")
    assert PATIENT not in repr(reply)
    failure = json.loads((hospital.app / FAILURE_FILE).read_text(encoding="utf-8"))
    assert failure["kind"] == "NoSpaceLeft"
    assert str(tmp_path / PATIENT) in failure["error"], "the site itself learns where"


def test_a_disk_that_fills_up_while_training_is_told_too(make_hospital, weights, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", f"/data/{PATIENT}")

    monkeypatch.setattr("fedpartial.flare.learner.save_model", full)
    reply = make_hospital(method=FedAvg()).execute("train", train_task(weights))
    assert reply.get_header(REASON_HEADER).startswith("no space left for the job's files (")
    assert PATIENT not in repr(reply)


def test_a_disk_too_full_for_the_failure_file_still_lets_the_server_know(make_hospital, weights, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", f"/data/{PATIENT}")

    monkeypatch.setattr("fedpartial.flare.learner.save_model", full)
    monkeypatch.setattr("fedpartial.flare.learner.write_failure", full)
    hospital = make_hospital(method=FedAvg())
    reply = hospital.execute("train", train_task(weights))
    assert reply.get_header(REASON_HEADER).startswith("no space left for the job's files (")
    assert PATIENT not in repr(reply)
    assert "site_failure.json cannot be written" in caplog.text, "the site's own log says it"
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR and PATIENT in record.getMessage()
    ]


class Events(Engine):
    """Remembers what is fired; a hostile job's ConvertToFedEvent would send it."""

    def __init__(self, components):
        super().__init__(components)
        self.fired: list[tuple[str, object]] = []

    def fire_event(self, event, fl_ctx):
        self.fired.append((event, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
        super().fire_event(event, fl_ctx)


def test_the_full_text_of_a_failure_is_no_event_that_a_job_could_forward(make_hospital, weights, caplog):
    hospital = make_hospital()
    task, _ = an_unknown_label(hospital, weights)
    forward = ConvertToFedEvent([EventType.WARNING_LOG_AVAILABLE, EventType.ERROR_LOG_AVAILABLE, "_info_log_available"])
    engine = Events({"learner": SiteLearner(FedAvg()), "forward": forward})
    executor = LearnerExecutor("learner")
    reply = executor.execute("train", task, context(engine, hospital.name, hospital.root), Signal())
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert PATIENT in caplog.text, "the site's own log has it"
    assert not [event for event, data in engine.fired if PATIENT in f"{event} {data}"]
    executor.log_warning(context(engine, hospital.name, hospital.root), PATIENT)
    assert [event for event, data in engine.fired if PATIENT in f"{data}" and event.startswith("fed.")], "it would"


def test_good_answers_name_no_file_either(make_hospital, weights, tmp_path):
    hospital = make_hospital()
    root = hospital.root / PATIENT
    entries = {s: [write_case(root, f"{PATIENT}_{s}", seed=i)] for i, s in enumerate(("training", "validation"))}
    (root / "datalist.json").write_text(json.dumps(entries))
    edit_site(hospital, data_root=str(root), cache_dir=str(hospital.root / "cache"))
    replies = [
        hospital.execute("train", train_task(weights, 1)),
        hospital.execute("validate", score_task({"final": weights})),
        hospital.execute("submit_model", Shareable()),
    ]
    for reply in replies:
        assert reply.get_return_code() == ReturnCode.OK
        assert PATIENT not in repr(reply)
        assert str(tmp_path) not in repr(reply)


def test_a_site_that_never_trained_says_so_when_asked_for_its_model(make_hospital):
    """Not with a traceback: a site may have failed in every round and still be asked."""
    hospital = make_hospital()
    reply = hospital.execute("submit_model", Shareable())
    assert reply.get_return_code() != ReturnCode.OK
    assert str(hospital.root) not in repr(reply)
