"""Half precision where whole models and heads travel: a stage of MMDS, and private heads with fine-tuning."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import on_the_wire
from nvflare.apis.dxo import from_shareable
from nvflare.fuel.utils import fobs
from one_stage import Federation
from test_private_heads_start import HeadHospital, assembled_model, every_tuning_helps, make_job  # noqa: F401

from fedpartial.flare.site_executor import COLLECT, FINE_TUNE, LEARN, RECEIVE
from fedpartial.flare.weights import message_bytes
from fedpartial.networks.canonical import is_statistic
from fedpartial.networks.split import EMBEDDINGS
from fedpartial.networks.wire import as_received
from fedpartial.training.model_file import load_model
from one_round import home, stage_sites, universal  # noqa: F401

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


@pytest.fixture(scope="module")
def federation(universal, tmp_path_factory) -> Federation:  # noqa: F811
    """One stage of two sites in half precision."""
    sites = stage_sites(tmp_path_factory.mktemp("wire_sites"))
    federation = Federation(sites, tmp_path_factory.mktemp("wire_stage"))
    federation.server = federation.stage("liver", "spleen", wire="float16").run(evaluate=False)
    return federation


def test_a_stage_sends_halves_and_class_vectors_as_they_are(federation):
    for hospital in federation.server.link.hospitals.values():
        learn, receive = (fobs.loads(m.answered if m.task == LEARN else m.sent) for m in hospital.messages)
        for message in (learn, receive):
            found = {name: value.dtype for name, value in from_shareable(message).data.items()}
            assert {found[name] for name in found if name.startswith(EMBEDDINGS)} == {SINGLE}
            assert {found[name] for name in found if not name.startswith(EMBEDDINGS)} == {HALF}


def test_the_store_has_what_the_site_has_rounded_and_the_site_what_the_store_has_rounded(federation):
    assert not federation.server.failures
    for name, entry in federation.store.sites().items():
        own, _ = load_model(federation.own(name).local)
        stored = federation.store.load(entry)
        assert {value.dtype for value in stored.values()} == {SINGLE}
        for tensor, value in as_received(own, "float16").items():
            assert np.array_equal(np.atleast_1d(stored[tensor]), np.atleast_1d(value)), tensor
    latest = federation.global_model()
    assert any(not np.array_equal(as_received(latest, "float16")[n], value) for n, value in latest.items())


def test_the_ledger_counts_halves(federation):
    lines = [line for line in federation.store.ledger.read() if line["record"] == "message"]
    assert len(lines) == 4
    for line in lines:
        hospital = federation.server.link.hospitals[line["site"]]
        task = LEARN if line["direction"] == "up" else RECEIVE
        (message,) = (m.answered if task == LEARN else m.sent for m in hospital.messages if m.task == task)
        assert line["bytes"] == message_bytes(fobs.loads(message))


def test_a_model_in_half_precision_that_was_not_asked_for_is_refused(federation, tmp_path, monkeypatch):
    from fedpartial.flare import learner

    other = federation.copied(tmp_path)
    narrow = learner.narrow
    monkeypatch.setattr(learner, "narrow", lambda message, _: narrow(message, "float16"))
    server = other.stage("liver", name="unasked").run(evaluate=False)
    assert "got float16; expected float32" in server.failures["liver"]


@pytest.mark.usefixtures("every_tuning_helps", "without_figures")
def test_private_heads_travel_in_half_precision_once(tiny, tiny_sites, tmp_path, monkeypatch):
    seen, execute = {}, HeadHospital.execute

    def spy(self, task_name, task, signal=None):
        came = on_the_wire(task)
        answer = execute(self, task_name, task, signal)
        seen[self.name, task_name] = (came, on_the_wire(answer))
        return answer

    monkeypatch.setattr(HeadHospital, "execute", spy)
    sites = {name: tiny_sites[name] for name in ("liver", "spleen")}
    server = make_job(sites, tmp_path / "half", exchange="trunk", finetune_steps=2, wire="float16")
    server.run()
    model, exchange = assembled_model(server), json.loads((server.app / "report.json").read_text())["exchange"]
    assert {value.dtype for value in model.values()} == {SINGLE}
    counted = {"heads_bytes_up": 0, "fine_tuning_bytes_down": 0}
    for name in sites:
        task, _ = seen[name, FINE_TUNE]
        _, heads = seen[name, COLLECT]
        for message in (task, heads):
            expected = {n: SINGLE if is_statistic(n) else HALF for n in from_shareable(message).data}
            assert {n: v.dtype for n, v in from_shareable(message).data.items()} == expected
        counted["heads_bytes_up"] += message_bytes(heads)
        counted["fine_tuning_bytes_down"] += message_bytes(task)
    assert {name: exchange[name] for name in counted} == counted
