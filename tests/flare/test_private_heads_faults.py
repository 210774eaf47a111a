"""What can go wrong with the heads of a site: a leak ends the run, a bad answer leaves the site out by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import POLICY
from in_process import Hospital, on_the_wire
from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from test_private_heads_start import (
    HeadServer,
    assembled_model,
    assert_equal,
    every_tuning_helps,  # noqa: F401
    make_job,
    serve,
    told,
)
from test_resume import interrupt

from fedpartial.flare.head_collection import NOTHING
from fedpartial.flare.learner import LOCAL_MODEL
from fedpartial.flare.leaving_content import KnownContent
from fedpartial.flare.leaving_metrics import ReportedMetrics
from fedpartial.flare.leaving_parts import NamedParts
from fedpartial.flare.persistor import GLOBAL_MODEL, TRUNK_MODEL
from fedpartial.flare.site_executor import COLLECT, FINE_TUNE
from fedpartial.flare.weights import METRICS
from fedpartial.networks.canonical import load_canonical
from fedpartial.networks.split import is_head
from fedpartial.server.run_state import RUN_STATE
from private_heads import federate_heads

pytestmark = pytest.mark.usefixtures("every_tuning_helps")
PLAN = {"num_rounds": 1, "finetune_steps": 2}
HEAD = "heads.spleen.0.conv.weight"


class Changed:
    """A hospital that takes part in ``tasks`` in another way: ``change(hospital, answer)`` is its answer."""

    def __init__(self, hospital: Hospital, change: Callable[[Hospital, Shareable], Shareable], *tasks: str):
        self.hospital, self.change, self.tasks = hospital, change, tasks

    def execute(self, task_name: str, task: Shareable, signal: Signal | None = None) -> Shareable:
        answer = on_the_wire(self.hospital.execute(task_name, task, signal))
        return self.change(self.hospital, answer) if task_name in self.tasks else answer


def content(change: Callable[[DXO], None]) -> Callable[[Hospital, Shareable], Shareable]:
    """The change of an answer whose content is changed."""

    def changed(_: Hospital, answer: Shareable) -> Shareable:
        dxo = from_shareable(answer)
        change(dxo)
        return dxo.update_shareable(answer)

    return changed


def no_answer(*_) -> Shareable:
    return make_reply(ReturnCode.EXECUTION_EXCEPTION)


@pytest.fixture(scope="module")
def trained(tiny, tiny_sites, tmp_path_factory) -> HeadServer:
    """A run that has finished its rounds and nothing after them."""
    server = make_job(tiny_sites, tmp_path_factory.mktemp("trained"), **PLAN)
    interrupt(server, 1)
    return server


def go_on(trained: HeadServer, root: Path, **changed) -> HeadServer:
    """The same hospitals, but for those in ``changed``, tune and give their heads."""
    server = serve({**trained.link.hospitals, **changed}, root, **PLAN)
    server.app.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained.app / RUN_STATE, server.app / RUN_STATE)
    server.run(evaluate=False)
    return server


@pytest.fixture(scope="module")
def good(trained, tmp_path_factory) -> dict[str, np.ndarray]:
    """The assembled model where nothing goes wrong."""
    server = go_on(trained, tmp_path_factory.mktemp("good"))
    assert not told(server, "failure")
    return assembled_model(server)


@pytest.fixture
def spoiled(trained, tmp_path) -> Callable[..., HeadServer]:
    """Goes on with a spleen hospital that answers some tasks in another way."""
    spleen = trained.link.hospitals["spleen"]
    return lambda change, *tasks: go_on(trained, tmp_path, spleen=Changed(spleen, change, *tasks))


def without_spleen(state: dict) -> dict:
    return {name: value for name, value in state.items() if not name.startswith("spleen/")}


def notes(server: HeadServer) -> list[str]:
    """What the report says of the collection."""
    return server.engine.components["recorder"].history.notes


def panics(server: HeadServer) -> list[str]:
    return [line["reason"] for line in told(server, "panic")]


BAD_HEADS = {
    "wrong shape": (lambda d: d.data.update({HEAD: d.data[HEAD][..., :1]}), f"tensor '{HEAD}': got shape"),
    "NaN": (lambda d: d.data[HEAD].fill(np.nan), f"tensor '{HEAD}'"),
    "foreign class": (
        lambda d: setattr(d, "data", {n.replace("spleen", "gallbladder"): v for n, v in d.data.items()}),
        "'gallbladder'",
    ),
    "half a head": (lambda d: d.data.pop(HEAD), f"1 tensor(s) missing, first '{HEAD}'"),
    "no head": (lambda d: setattr(d, "data", {"trunk.w": np.zeros(3, np.float32)}), "heads: got []"),
    "the trunk as well": (lambda d: d.data.update({"trunk.w": np.zeros(3, np.float32)}), "first 'trunk.w'"),
    "no tensors by name": (lambda d: setattr(d, "data", [1.0]), "invalid DXO"),
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_site_with_bad_heads_is_left_out_and_named(spoiled, good, name):
    change, reason = BAD_HEADS[name]
    server = spoiled(content(change), COLLECT)
    (failure,) = told(server, "failure")
    assert failure["site"] == "spleen"
    assert reason in failure["reason"]
    assert notes(server) == [f"No head of spleen is in the model: {failure['reason']}"]
    assert_equal(assembled_model(server), without_spleen(good))
    assert [line["site"] for line in told(server, "heads")] == ["liver"]
    assert not panics(server)


def policy(*private: str) -> Callable[[Hospital, Shareable], Shareable]:
    """The privacy filters of provision/policy/site, and names of tensors that may not leave besides."""
    shipped = json.loads((POLICY / "site" / "privacy.json").read_text(encoding="utf-8"))["scopes"][0]
    (named,) = [f["args"] for f in shipped["task_result_filters"] if f["path"].endswith(NamedParts.__name__)]
    parts = NamedParts(parts=named["parts"], private=[*named["private"], *private])

    def filtered(hospital: Hospital, answer: Shareable) -> Shareable:
        for one in (KnownContent(), parts, ReportedMetrics()):
            answer = one.process(answer, hospital.fl_ctx)
        return answer

    return filtered


def test_a_site_whose_privacy_policy_keeps_its_heads_is_left_out_and_named(trained, good, tmp_path):
    """Both sites have the shipped policy, which lets fine-tuning and heads pass; one keeps its heads."""
    policies = {"liver": policy(), "spleen": policy("heads.*")}
    hospitals = {n: Changed(trained.link.hospitals[n], p, FINE_TUNE, COLLECT) for n, p in policies.items()}
    server = go_on(trained, tmp_path, **hospitals)
    (failure,) = told(server, "failure")
    assert failure["site"] == "spleen"
    assert failure["reason"].startswith("refused by the site's privacy policy: tensor 'heads.spleen.")
    assert_equal(assembled_model(server), without_spleen(good))
    assert {line["site"] for line in told(server, "tuned")} == {"liver", "spleen"}


def test_without_any_head_the_run_ends_and_every_site_has_its_own_model(trained, tmp_path):
    sites = trained.link.hospitals
    server = go_on(trained, tmp_path, **{name: Changed(sites[name], policy("heads.*"), COLLECT) for name in sites})
    assert panics(server) == [NOTHING]
    assert {line["site"] for line in told(server, "failure")} == {"liver", "spleen"}
    assert not (server.app / GLOBAL_MODEL).exists()
    assert all((hospital.app / LOCAL_MODEL).exists() for hospital in sites.values())


def test_a_tensor_with_the_answer_to_fine_tuning_ends_the_run(spoiled):
    server = spoiled(content(lambda d: d.data.update({HEAD: np.ones(2, np.float32)})), FINE_TUNE)
    assert panics(server) == [f"a private part moved: spleen sent '{HEAD}' with its answer to fine-tuning"]
    assert not (server.app / GLOBAL_MODEL).exists()


def test_bad_numbers_do_not_hide_that_tensor(spoiled):
    def change(dxo: DXO) -> None:
        dxo.data[HEAD] = np.ones(2, np.float32)
        dxo.meta[METRICS]["loss"] = float("nan")

    assert "a private part moved: spleen" in panics(spoiled(content(change), FINE_TUNE))[0]


def test_heads_tuned_on_another_trunk_end_the_run(trained, tmp_path, monkeypatch):
    def elsewhere(network, state):
        load_canonical(network, {n: tensor if is_head(n) else tensor + 1 for n, tensor in state.items()})

    class Deaf:
        def execute(self, *task) -> Shareable:
            with monkeypatch.context() as patch:
                patch.setattr("fedpartial.training.local_trainer.load_canonical", elsewhere)
                return trained.link.hospitals["spleen"].execute(*task)

    server = go_on(trained, tmp_path, spleen=Deaf())
    (reason,) = panics(server)
    assert reason.startswith("spleen tuned its heads on another trunk: 0 of ")
    assert not told(server, "heads")


def test_a_site_that_cannot_tune_gives_the_heads_of_its_rounds(tiny, tiny_sites, tmp_path):
    server = make_job(tiny_sites, tmp_path, **PLAN)
    spleen = server.link.hospitals["spleen"]

    class Unable:
        def execute(self, task_name: str, *task) -> Shareable:
            return no_answer() if task_name == FINE_TUNE else spleen.execute(task_name, *task)

    server.link.hospitals["spleen"] = Unable()
    server.run(evaluate=False)
    untuned = federate_heads(tiny_sites, server.plan, tmp_path / "plain").assembled()
    found = assembled_model(server)
    changed = {name.split(".")[0] for name in untuned if not np.array_equal(found[name], untuned[name])}
    assert changed == {"liver/heads"}
    assert [line["site"] for line in told(server, "failure")] == ["spleen"]
    assert notes(server) == ["spleen did not fine-tune its heads: EXECUTION_EXCEPTION"]


def test_a_head_in_an_update_ends_the_run(tiny, tiny_sites, tmp_path):
    server = make_job(tiny_sites, tmp_path)
    spleen = server.link.hospitals["spleen"]
    change = content(lambda d: d.data.update({HEAD: np.ones(2, np.float32)}))
    server.link.hospitals["spleen"] = Changed(spleen, change, "train")
    server.run(min_clients=1)
    assert panics(server)[0] == f"a private part moved: site spleen sends 1 private tensor(s), first '{HEAD}'"
    assert not any((server.app / name).exists() for name in (RUN_STATE, TRUNK_MODEL, GLOBAL_MODEL, "report.json"))


def test_heads_of_a_site_without_any_accepted_update_are_left_out(tiny, tiny_sites, tmp_path, without_figures):
    """Nobody knows how many cases they weigh."""
    server = make_job(tiny_sites, tmp_path, num_rounds=1)
    change = content(lambda d: next(iter(d.data.values())).fill(np.nan))
    server.link.hospitals["spleen"] = Changed(server.link.hospitals["spleen"], change, "train")
    server.run(min_clients=1)
    reason = "heads from spleen refused: no update of it was accepted"
    assert [line["reason"] for line in told(server, "failure")][-1] == reason
    report = json.loads((server.app / "report.json").read_text(encoding="utf-8"))
    assert f"No head of spleen is in the model: {reason}" in report["notes"]
    assert not [name for name in assembled_model(server) if name.startswith("spleen/")]
