"""What a site may answer in a stage of MMDS that is refused by name, and the stage goes on with the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from in_process import on_the_wire
from nvflare.apis.client import Client
from nvflare.apis.dxo import DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply
from nvflare.fuel.utils import fobs
from one_stage import Federation, StageServer, trained_federation
from test_private_heads_faults import Changed, content, no_answer, policy

from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.site_executor import LEARN, RECEIVE
from fedpartial.flare.weights import METRICS
from one_round import home, stage_sites, universal  # noqa: F401

WEIGHT = "head.2.weight"


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("stage_sites"))


@pytest.fixture(scope="module")
def trained(universal, sites, tmp_path_factory) -> Federation:  # noqa: F811
    return trained_federation(sites, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def federation(trained, tmp_path) -> Federation:
    return trained.copied(tmp_path)


def with_spleen(federation: Federation, change, *tasks: str, **plan) -> StageServer:
    """Liver, and a spleen hospital that answers some tasks in another way."""
    server = federation.stage("liver", "spleen", **plan)
    server.link.hospitals["spleen"] = Changed(server.link.hospitals["spleen"], change, *tasks)
    return server.run(min_clients=1, distil_steps=1)


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory) -> tuple[Federation, StageServer]:
    """A stage without a fault, whose tasks can be answered again in another way."""
    federation = trained.copied(tmp_path_factory.mktemp("done"))
    return federation, federation.stage("liver", "spleen").run(distil_steps=1, evaluate=False)


def answer_again(server: StageServer, task: str, change) -> str:
    """The spleen hospital's answer once more, but changed; why it is refused."""
    hospital = server.link.hospitals["spleen"]
    good = next(message.answered for message in hospital.messages if message.task == task)
    replay = SimpleNamespace(execute=lambda *_: on_the_wire(change(hospital, fobs.loads(good))))
    server.engine.components["recorder"].failures.clear()
    with server.at_home(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(server.link.hospitals, "spleen", replay)
        server.link.work(Client("spleen", ""), server.link.tasks[task], server.fl_ctx.clone(), server.engine.signal)
    return server.engine.components["recorder"].failures.get("spleen", "")


def renamed(old: str, new: str):
    return lambda d: setattr(d, "data", {name.replace(old, new): value for name, value in d.data.items()})


def metric(name: str, value: object):
    return lambda d: d.meta[METRICS].update({name: value})


BAD_MODELS = {
    "NaN": (lambda d: d.data[WEIGHT].fill(np.nan), f"model of spleen refused: tensor '{WEIGHT}': "),
    "wrong shape": (lambda d: d.data.update({WEIGHT: d.data[WEIGHT][..., :0]}), f"tensor '{WEIGHT}': got shape"),
    "whole numbers": (
        lambda d: d.data.update({WEIGHT: d.data[WEIGHT].astype(np.int32)}),
        f"tensor '{WEIGHT}': got int32",
    ),
    "a missing tensor": (lambda d: d.data.pop(WEIGHT), f"1 tensor(s) missing, first '{WEIGHT}'"),
    "an extra tensor": (lambda d: d.data.update({"x": np.ones(1, np.float32)}), "1 unknown tensor(s), first 'x'"),
    "a foreign class": (renamed("embeddings.spleen", "embeddings.lung"), "'lung'"),
    "no class": (lambda d: d.data.pop("embeddings.spleen"), "model of spleen refused: "),
    "another vector": (
        lambda d: d.data.update({"embeddings.spleen": -d.data["embeddings.spleen"]}),
        "model of spleen refused: tensor 'embeddings.spleen' is not the vector of that class here",
    ),
    "the vector of another class": (
        renamed("embeddings.spleen", "embeddings.aorta"),
        "'embeddings.aorta' is not the vector",
    ),
    "no tensors by name": (lambda d: setattr(d, "data", [1.0]), "invalid DXO"),
    "an update": (lambda d: setattr(d, "data_kind", DataKind.WEIGHT_DIFF), "got DataKind.WEIGHT_DIFF"),
    "numbers": (
        lambda d: (setattr(d, "data_kind", DataKind.METRICS), setattr(d, "data", {"a": 1.0})),
        "got DataKind.METRICS",
    ),
    "no metrics": (lambda d: d.meta.pop(METRICS), "metrics: got 'NoneType'"),
    "a metric less": (lambda d: d.meta[METRICS].pop("loss"), "loss: got 'nothing'"),
    "a metric of a foreign class": (metric("val_dice", {"lung": 0.5}), "'lung'"),
    "no training case": (metric("num_training", 0), "num_training: got 0"),
    "negative steps": (lambda d: d.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, -1), "steps -1"),
    "more steps than can be": (lambda d: d.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 2**62), "steps 4611686"),
    "no steps": (lambda d: d.meta.pop(MetaKey.NUM_STEPS_CURRENT_ROUND), "steps None"),
    "half a step": (lambda d: d.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 0.5), "steps 0.5"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_refused_by_name_and_not_stored(done, name):
    (federation, server), (change, reason) = done, BAD_MODELS[name]
    before, lines = federation.store.manifest(), federation.store.ledger.read()
    assert reason in answer_again(server, LEARN, content(change))
    assert federation.store.manifest() == before
    assert federation.store.ledger.read() == lines
    assert not server.panics


def test_the_stage_goes_on_without_a_refused_model(federation):
    server = with_spleen(federation, content(BAD_MODELS["NaN"][0]), LEARN)
    assert federation.versions() == {"liver": 1}
    assert federation.store.latest_global().teachers == {"liver": 1}
    assert [line["site"] for line in federation.store.ledger.read() if line.get("kind") == LEARN] == ["liver"]
    assert f"spleen gave no model to this stage: {server.failures['spleen']}" in server.report()["notes"]
    assert set(server.report()["sites"]) == {"liver", "spleen"}  # it may still have the global model
    assert not server.panics


def test_a_good_model_answered_again_is_a_new_version(trained, tmp_path):
    """So what is refused above would have been stored."""
    federation = trained.copied(tmp_path)
    server = federation.stage("liver", "spleen").run(distil_steps=1, evaluate=False)
    assert not answer_again(server, LEARN, content(lambda d: d.data.update({WEIGHT: d.data[WEIGHT] + 1})))
    assert federation.versions() == {"liver": 1, "spleen": 2}


def test_a_class_that_was_not_asked_for_is_refused(federation):
    """The site gives all that it has; FLARE's message is as the site's own code would not make it."""
    whole = federation.own("amos").local.read_bytes()
    server = federation.stage("liver", "amos", site_classes={"amos": ["kidney"]})
    amos = server.link.hospitals["amos"]

    def give_all(hospital, answer):
        from fedpartial.training.model_file import load_model

        federation.own("amos").local.write_bytes(whole)
        return content(lambda d: setattr(d, "data", load_model(federation.own("amos").local)[0]))(hospital, answer)

    server.link.hospitals["amos"] = Changed(amos, give_all, LEARN)
    server.run(min_clients=1, distil_steps=1)
    assert server.failures["amos"] == "model of amos refused: it has 'aorta', which was not asked for"
    assert federation.versions() == {"liver": 1}


@pytest.mark.parametrize("private", ["embeddings.*", "extractor.*", "head.*"])
def test_a_privacy_policy_may_keep_any_part(done, private):
    reason = answer_again(done[1], LEARN, policy(private))
    assert reason.startswith(f"refused by the site's privacy policy: tensor '{private[:-1]}")


def test_a_site_whose_privacy_policy_keeps_a_part_is_left_out_and_named(federation):
    server = with_spleen(federation, policy("embeddings.*"), LEARN)
    assert server.failures["spleen"].startswith("refused by the site's privacy policy: tensor 'embeddings.spleen'")
    assert federation.versions() == {"liver": 1}
    assert not server.panics


def test_the_shipped_policy_lets_a_whole_model_and_scores_leave(federation):
    server = with_spleen(federation, policy(), LEARN, RECEIVE)
    assert not server.failures
    assert federation.versions() == {"liver": 1, "spleen": 1}
    assert {"final", "adapted local", "adapted personalised"} == set(server.report()["cross_site"])


def says_why(*_):
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.set_header(REASON_HEADER, "the disk is full")
    return reply


@pytest.mark.parametrize(("change", "reason"), [(no_answer, "EXECUTION_EXCEPTION"), (says_why, "the disk is full")])
def test_a_site_that_cannot_train_is_named_with_its_reason(federation, change, reason):
    server = with_spleen(federation, change, LEARN)
    assert server.failures == {"spleen": reason}
    assert f"spleen gave no model to this stage: {reason}" in server.report()["notes"]
    assert federation.versions() == {"liver": 1}


BAD_SCORES = {
    "of another site's model": (
        lambda d: d.data["testing"].update({"local liver": d.data["testing"]["final"]}),
        "got scores of adapted local, adapted personalised, final, local liver",
    ),
    "validation of another site's model": (lambda d: d.data["validation"].update({"local liver": {}}), "local liver"),
    "of an earlier global model": (lambda d: d.data["testing"].update({"best": []}), "best"),
    "without the global model": (lambda d: d.data["testing"].pop("final"), "expected its own and the global model"),
    "with a tensor": (lambda d: d.data.update({"w": np.ones(2, np.float32)}), "w: got 'ndarray'"),
    "as weights": (
        lambda d: (setattr(d, "data_kind", DataKind.WEIGHTS), setattr(d, "data", {"a": np.ones(1)})),
        "WEIGHTS; expected numbers only",
    ),
    "of nothing": (lambda d: setattr(d, "data", {}), "scores from spleen refused"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_bad_scores_are_refused_by_name_and_not_kept(done, name):
    (_, server), (change, reason) = done, BAD_SCORES[name]
    kept = server.engine.components["recorder"].adapted
    kept.pop("spleen", None)
    assert reason in answer_again(server, RECEIVE, content(change))
    assert set(kept) == {"liver"}
    assert not server.panics


def test_bad_scores_are_in_no_report_and_the_model_stays(federation):
    server = with_spleen(federation, content(BAD_SCORES["of another site's model"][0]), RECEIVE)
    assert set(server.report()["sites"]) == {"liver"}
    assert federation.versions() == {"liver": 1, "spleen": 1}


def test_a_site_that_cannot_score_is_named(federation):
    server = with_spleen(federation, says_why, RECEIVE)
    assert server.failures == {"spleen": "the disk is full"}
    assert set(server.report()["sites"]) == {"liver"}
