"""Jobs with private heads over FLARE's own workflows: what travels, what they leave, bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_private_heads_start import (
    HeadServer,
    assembled_model,
    assert_equal,
    every_tuning_helps,  # noqa: F401
    make_job,
    tensor_names,
    told,
)
from test_standalone import external_set

from fedpartial.evaluation import page
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.exchange_watch import EXCHANGE_FILE
from fedpartial.flare.learner import LOCAL_MODEL
from fedpartial.flare.persistor import BEST_MODEL, TRUNK_MODEL
from fedpartial.flare.site_executor import COLLECT, FINE_TUNE
from fedpartial.networks.split import HEADS, is_head
from fedpartial.training.checkpoint import read_tensors
from fedpartial.training.model_file import load_model
from private_heads import Federated, federate_heads, tensors

pytestmark = pytest.mark.usefixtures("every_tuning_helps")
ALONE, TUNED = "standalone", "fedbn, tuned"
PLANS = {
    "trunk": {"exchange": "trunk"},
    TUNED: {"exchange": "trunk_without_norms", "finetune_steps": 4},
    ALONE: {"exchange": "trunk"},
}
CLASSES = {"liver": "liver", "spleen": "spleen"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run and the same rounds without FLARE."""

    server: HeadServer
    plain: Federated
    untuned: dict[str, dict[str, np.ndarray]]

    def report(self) -> dict:
        return json.loads((self.server.app / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tiny, tiny_sites, tmp_path_factory) -> dict[str, Run]:
    """Every plan of PLANS once, without figures: one in processes that last, two in a new one for every task.

    One has an external set, which takes most of the time.
    """
    found = {}
    for name, plan in PLANS.items():
        folder, alone = tmp_path_factory.mktemp("run"), name == ALONE
        server = make_job(tiny_sites, folder, alone=alone, lasting=name == "trunk", **plan)
        if name == TUNED:
            external_set(server, folder)
        with pytest.MonkeyPatch.context() as drawing:
            drawing.setattr(page, "_figures", lambda *_: {})
            server.run()
        found[name] = plain_run(server, tiny_sites, folder / "plain")
    return found


def plain_run(server: HeadServer, sites: dict, folder: Path) -> Run:
    """The same rounds and the same fine-tuning without FLARE."""
    start = next(iter(server.link.hospitals.values())).start_from
    plain = federate_heads(sites, server.plan, folder, start_from=start)
    untuned = plain.private()
    for session in plain.sessions.values() if server.plan.finetune_steps else ():
        session.fine_tune(tensors(plain.shared[-1]), lambda: False)
    return Run(server=server, plain=plain, untuned=untuned)


@pytest.mark.parametrize("name", PLANS)
def test_the_global_model_is_that_of_the_plain_federation_with_all_heads(runs, name):
    run = runs[name]
    expected = run.plain.assembled(whole=name == ALONE)
    assert_equal(assembled_model(run.server), expected)
    assert {site for n in expected if HEADS in n for site in CLASSES if n.startswith(f"{site}/")} == set(CLASSES)
    assert not told(run.server, "failure")
    assert not told(run.server, "panic")


@pytest.mark.parametrize("name", PLANS)
def test_what_is_assembled_is_what_the_sites_have(runs, name):
    server, state = runs[name].server, assembled_model(runs[name].server)
    for site, hospital in server.link.hospitals.items():
        own = {n: tensor.numpy() for n, tensor in read_tensors(hospital.app / LOCAL_MODEL)[0].items()}
        private = {n: state[f"{site}/{n}"] for n in own if f"{site}/{n}" in state}
        assert_equal(private, {n: own[n] for n in private})
        assert {n for n in own if is_head(n)} <= set(private)
        assert state[f"{site}/num_training"] == 2


@pytest.mark.parametrize("name", [name for name in PLANS if name != ALONE])
def test_the_trunk_file_holds_the_shared_tensors_of_the_last_round(runs, name):
    trunk, info = load_model(runs[name].server.app / TRUNK_MODEL)
    assert_equal(trunk, runs[name].plain.shared[-1])
    assert not any(map(is_head, trunk))
    assert info.round_number == 2


def test_without_aggregation_there_is_no_trunk(runs):
    app = runs[ALONE].server.app
    assert not (app / TRUNK_MODEL).exists()
    assert not [name for name in assembled_model(runs[ALONE].server) if "/" not in name]


@pytest.mark.parametrize("name", PLANS)
def test_no_message_of_a_round_holds_a_head(runs, name):
    """Names of all arrays, wherever they stand, and the bytes: a head has no other way out than the collection."""
    run = runs[name]
    shared = sorted(run.plain.shared[-1])
    for hospital in run.server.link.hospitals.values():
        rounds = [message for message in hospital.messages if message.task == "train"]
        assert len(rounds) == 2
        for message in rounds:
            assert sorted(tensor_names(message.sent)) == sorted(tensor_names(message.answered)) == shared
            assert HEADS.encode() not in message.sent + message.answered
        (collected,) = [message for message in hospital.messages if message.task == COLLECT]
        assert not tensor_names(collected.sent)
        assert HEADS.encode() in collected.answered


def test_fine_tuning_sends_the_trunk_and_gets_numbers(runs):
    run = runs[TUNED]
    for hospital in run.server.link.hospitals.values():
        (tuning,) = [message for message in hospital.messages if message.task == FINE_TUNE]
        assert sorted(tensor_names(tuning.sent)) == sorted(run.plain.shared[-1])
        assert not tensor_names(tuning.answered)
        assert HEADS.encode() not in tuning.sent + tuning.answered
    assert {line["site"] for line in told(run.server, "tuned")} == set(CLASSES)
    state = assembled_model(run.server)
    for site, before in run.untuned.items():
        assert {is_head(n) for n in before} == {True, False}
        assert all(np.array_equal(state[f"{site}/{n}"], value) != is_head(n) for n, value in before.items())


@pytest.mark.parametrize("name", PLANS)
def test_the_exchange_file_says_so(runs, name):
    run = runs[name]
    found = json.loads((run.server.app / EXCHANGE_FILE).read_text(encoding="utf-8"))
    number = len(run.plain.shared[-1])
    assert found["exchange"] == PLANS[name]["exchange"]
    assert set(found["shared"]) == set(run.plain.shared[-1])
    assert not found["faults"]
    assert [noted["tensors_down"] for noted in found["rounds"]] == [number, number]
    up = {site["tensors_up"] for noted in found["rounds"] for site in noted["sites"].values()}
    assert up == {number}
    changed = {noted["tensors_changed"] for noted in found["rounds"]}
    assert changed == ({None} if name == ALONE else {number})


@pytest.mark.parametrize("name", PLANS)
def test_the_report_is_that_of_the_assembled_model(runs, name):
    run, report = runs[name], runs[name].report()
    validate_report(report)
    assert_equal(load_model(run.server.app / BEST_MODEL)[0], assembled_model(run.server))
    assert (report["selected_model"]["name"], report["selected_model"]["round"]) == ("final", 2)
    assert set(report["cross_site"]) == {"final"}
    assert {site: set(classes) for site, classes in report["sites"].items()} == {s: {c} for s, c in CLASSES.items()}
    phases = [phase for phase in report["phases"] if phase in ("fine-tuning", "collecting heads")]
    assert phases == (["fine-tuning"] if "finetune_steps" in PLANS[name] else []) + ["collecting heads"]
    external = set(CLASSES.values()) if name == TUNED else set()
    assert set(report["external"]) == set(report["external_heads"]) == external
