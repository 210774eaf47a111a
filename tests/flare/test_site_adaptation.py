"""Site adaptation over FLARE's own workflows: models stay at their sites, numbers leave, and the report has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hostile import POLICY
from in_process import Engine, context, on_the_wire
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.fuel.utils import fobs
from test_private_heads_start import HeadHospital, HeadServer, assert_equal, tensor_names, told

from fedpartial.errors import ConfigError
from fedpartial.evaluation import page
from fedpartial.evaluation.adaptation import adaptation_section
from fedpartial.evaluation.record import validate_report
from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.final_evaluation import FinalEvaluation
from fedpartial.flare.learner import ADAPTED_MODEL, validation_numbers
from fedpartial.flare.leaving_content import KnownContent
from fedpartial.flare.leaving_metrics import ReportedMetrics
from fedpartial.flare.leaving_parts import NamedParts
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
from fedpartial.flare.rounds import FederatedRounds
from fedpartial.flare.site_adaptation import NO_COMMON_MODEL, PHASE, SiteAdaptation
from fedpartial.flare.site_executor import ADAPT
from fedpartial.flare.standalone import NoAggregation
from fedpartial.methods.margexc import MargExc
from fedpartial.networks.fusion import LOG_ODDS
from fedpartial.networks.parts import is_encoder
from fedpartial.server.run_state import RUN_STATE
from fedpartial.sites import SiteConfig
from fedpartial.training.adaptation import CHECKS, AdaptationPlan
from fedpartial.training.model_file import load_model
from fedpartial.training.reported import ADAPTATION_WAYS, ADAPTED, VALIDATION
from fedpartial.training.site_session import SiteSession
from private_heads import tensors

SITES, STEPS = ("liver", "spleen"), 2
NAMES = [f"{ADAPTED}{way}" for way in ADAPTATION_WAYS]


class AdaptServer(HeadServer):
    """The server of a job with the workflows of jobs/psmos_adapt."""

    def run(self, *, evaluate: bool = True, **adaptation) -> None:
        rounds = FederatedRounds(min_clients=len(self.engine.sites), num_rounds=self.plan.num_rounds)
        final = [FinalEvaluation(cross_site=False)] if evaluate else []
        self.engine.workflows += [rounds, SiteAdaptation(**{"steps": STEPS, "lr_factor": 1.0, **adaptation}), *final]
        self.go()

    def go(self) -> None:
        self.engine.fire_event(EventType.START_RUN, self.fl_ctx)
        for workflow in self.engine.workflows:
            if self.engine.signal.triggered:
                return
            workflow.set_communicator(self.link)
            workflow.initialize(self.fl_ctx)
            workflow.control_flow(self.engine.signal, self.fl_ctx)


def serve(hospitals: dict, root: Path, **plan) -> AdaptServer:
    return AdaptServer(root, hospitals, FullModelShareableGenerator(), num_rounds=1, **plan)


@pytest.fixture(scope="module")
def run(tiny, tiny_sites, tmp_path_factory) -> AdaptServer:
    """A round, the adaptation in three ways, the final evaluation; every task in a process of its own, no figures."""
    root = tmp_path_factory.mktemp("adapted")
    hospitals = {n: HeadHospital(s, MargExc(), root / "sites" / n, lasting=False) for n, s in tiny_sites.items()}
    server = serve(hospitals, root / "server")
    with pytest.MonkeyPatch.context() as drawing:
        drawing.setattr(page, "_figures", lambda *_: {})
        server.run()
    assert not told(server, "panic")
    return server


def answer_of(run: AdaptServer, site: str) -> Shareable:
    """What the site has answered to the adaptation."""
    (message,) = [m for m in run.link.hospitals[site].messages if m.task == ADAPT]
    return fobs.loads(message.answered)


def report_of(server: AdaptServer) -> dict:
    return json.loads((server.app / "report.json").read_text(encoding="utf-8"))


# --- what moves ---------------------------------------------------------------------------------------


def leaves(value: object) -> Iterator[object]:
    """Everything in a message that is neither a list nor a mapping."""
    if isinstance(value, dict):
        yield from leaves(list(value))
        yield from leaves(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("site", SITES)
def test_the_answer_holds_numbers_and_names_only(run, site):
    answer = answer_of(run, site)
    assert answer.get_return_code() == ReturnCode.OK
    found = from_shareable(answer)
    assert found.data_kind == DataKind.METRICS
    assert {type(value) for value in leaves(dict(answer))} <= {int, float, str, bool, type(None), DataKind}
    assert list(found.data["testing"]) == list(found.data["validation"]) == NAMES
    assert "safetensors" not in repr(answer)


def test_the_federated_model_is_sent_once_and_no_tensor_comes_back(run):
    expected = load_model(run.app / GLOBAL_MODEL)[0]
    for hospital in run.link.hospitals.values():
        (message,) = [m for m in hospital.messages if m.task == ADAPT]
        assert sorted(tensor_names(message.sent)) == sorted(expected)
        assert_equal(from_shareable(fobs.loads(message.sent)).data, expected)
        assert not tensor_names(message.answered)
    assert {hospital.messages[-1].task for hospital in run.link.hospitals.values()} == {"validate"}


def test_no_adapted_model_is_at_the_server(run):
    names = {path.name for path in run.root.rglob("*.safetensors")}
    assert names == {GLOBAL_MODEL, BEST_MODEL, RUN_STATE}


def test_the_answer_passes_the_sites_shipped_policy_as_summaries(run, tmp_path):
    shipped = json.loads((POLICY / "site" / "privacy.json").read_text(encoding="utf-8"))["scopes"][0]
    (parts,) = [f["args"] for f in shipped["task_result_filters"] if f["path"].endswith(NamedParts.__name__)]
    answer, fl_ctx = answer_of(run, "liver"), context(Engine({}), "liver", tmp_path)
    for one in (KnownContent(), NamedParts(**parts), ReportedMetrics()):
        answer = one.process(answer, fl_ctx)
        assert answer.get_return_code() == ReturnCode.OK, answer.get_header(REASON_HEADER)
    data = from_shareable(answer).data
    assert list(data["testing"]) == NAMES
    assert all(isinstance(summary, dict) for summary in data["testing"].values()), "no case by itself"
    assert data["validation"] == {name: {} for name in NAMES}, "one validation case is that case"
    server = told_by(run, tmp_path / "server", spleen=lambda _: answer_of(run, "spleen"), liver=lambda _: answer)
    assert set(server.engine.components["recorder"].adapted) == set(SITES)


# --- what stays at the site ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ADAPTATION_WAYS)
def test_the_site_keeps_its_model_whose_frozen_part_is_the_federated_one(run, way):
    federated = load_model(run.app / GLOBAL_MODEL)[0]
    kept = {}
    for site, hospital in run.link.hospitals.items():
        kept[site], info = load_model(hospital.app / ADAPTED_MODEL.format(way))
        assert set(kept[site]) == set(federated)
        moved = {name for name, value in federated.items() if not np.array_equal(kept[site][name], value)}
        parts = {is_encoder(name, run.plan.config.network) for name in moved}
        assert parts == {"all": {True, False}, "encoder_frozen": {False}, "decoder_frozen": {True}}[way]
        assert info.round_number == 1
    assert any(not np.array_equal(kept["liver"][name], kept["spleen"][name]) for name in federated)


def test_the_models_at_the_site_have_the_scores_that_it_reported(run, tiny_sites, tmp_path):
    """And they are those of the plain session, without FLARE."""
    hospital, answer = run.link.hospitals["liver"], from_shareable(answer_of(run, "liver")).data
    session = SiteSession(site=tiny_sites["liver"], plan=run.plan, method=MargExc(), state_dir=tmp_path)
    plan, federated = AdaptationPlan(steps=STEPS, lr_factor=1.0), tensors(load_model(run.app / GLOBAL_MODEL)[0])
    for way, name in zip(ADAPTATION_WAYS, NAMES, strict=True):
        kept = load_model(hospital.app / ADAPTED_MODEL.format(way))[0]
        adapted, _ = session.adapt(federated, way, plan, lambda: False)
        assert_equal(kept, {n: t.numpy() for n, t in adapted.weights.items()})
        validation = {field: answer[by_model][name] for field, by_model in VALIDATION.items()}
        assert validation == validation_numbers(session.validation_scores(tensors(kept)))
        assert [case.to_dict() for case in session.score(tensors(kept))] == answer["testing"][name]
        (prediction,) = session.predict(tensors(kept), session.scored_cases[0], LOG_ODDS)
        assert prediction.shape == (16, 14, 12)


def test_a_way_validates_no_more_than_its_checks(tiny, tiny_sites, tmp_path, monkeypatch):
    asked, validate = [], SiteSession.validation_scores
    monkeypatch.setattr(
        SiteSession, "validation_scores", lambda self, *given: asked.append(self) or validate(self, *given)
    )
    server = make_with({"liver": tiny_sites["liver"]}, tmp_path)
    server.run(evaluate=False, ways=["all"])
    assert len(asked) == CHECKS
    assert not told(server, "failure")


def test_the_rounds_are_those_of_the_job_without_adaptation(run, tiny_sites, tmp_path):
    hospitals = {n: HeadHospital(s, MargExc(), tmp_path / n) for n, s in tiny_sites.items()}
    plain = serve(hospitals, tmp_path / "server")
    plain.engine.workflows.append(FederatedRounds(min_clients=2, num_rounds=1))
    plain.go()
    assert_equal(*(load_model(server.app / GLOBAL_MODEL)[0] for server in (run, plain)))


# --- the report ---------------------------------------------------------------------------------------


def test_the_report_has_the_adapted_models_beside_the_federated_one(run):
    report = report_of(run)
    validate_report(report)
    assert set(report["adapted_sites"]) == set(report["adapted_cases"]) == set(ADAPTATION_WAYS)
    for by_site in report["adapted_sites"].values():
        assert {site: set(found) for site, found in by_site.items()} == {
            "liver": {"liver", "liver_tumor"},
            "spleen": {"spleen"},
        }
    section = adaptation_section(report, run.plan.config.label_space.classes)
    assert len(section["models"]) == 4
    assert set(section["sites"]) == set(SITES)
    assert report["phases"][PHASE] > 0
    assert "Site adaptation" in (run.app / "report.html").read_text(encoding="utf-8")
    assert "adapted" not in " ".join(report["notes"])


def test_the_progress_file_names_the_phase_and_the_sites(run):
    assert PHASE in [line["name"] for line in told(run, "phase")]
    assert {line["site"] for line in told(run, "adapted")} == set(SITES)


# --- what goes wrong ----------------------------------------------------------------------------------


@dataclass
class Recorded:
    """A site that has finished its round, and answers the adaptation with ``answer(task)``."""

    answer: Callable[[Shareable], Shareable]

    def execute(self, task_name: str, task: Shareable, signal=None) -> Shareable:
        assert task_name == ADAPT
        return self.answer(on_the_wire(task))


def after_rounds(run: AdaptServer, root: Path, **answers: Callable) -> AdaptServer:
    """A server that continues the finished rounds, and sites that will answer so."""
    server = serve({site: Recorded(answer) for site, answer in answers.items()}, root)
    server.app.mkdir(parents=True, exist_ok=True)
    (server.app / RUN_STATE).write_bytes((run.app / RUN_STATE).read_bytes())
    return server


def told_by(run: AdaptServer, root: Path, **answers: Callable) -> AdaptServer:
    """The same when it has got the answers."""
    server = after_rounds(run, root, **answers)
    server.run(evaluate=False)
    return server


def changed(run: AdaptServer, change: Callable[[dict], object]) -> Callable[[Shareable], Shareable]:
    """The spleen hospital's good answer with another content."""

    def answer(_: Shareable) -> Shareable:
        dxo = from_shareable(answer_of(run, "spleen"))
        change(dxo.data)
        return dxo.to_shareable()

    return answer


def as_weights(task: Shareable) -> Shareable:
    return DXO(data_kind=DataKind.WEIGHTS, data=from_shareable(task).data).to_shareable()


def refusing(_: Shareable) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.set_header(REASON_HEADER, "no space left for the job's files")
    return reply


BAD = {
    "NaN": (lambda d: d["validation"][NAMES[0]].update(spleen=float("nan")), "expected a Dice from 0 to 1"),
    "a class of nobody": (lambda d: d["validation"][NAMES[0]].update(heart=0.5), "got 'heart'"),
    "an unknown model": (lambda d: d["testing"].update({"adapted everything": []}), "got 'adapted everything'"),
    "the global model": (lambda d: d["testing"].update(final=[]), "got scores of adapted all"),
    "another's local model": (lambda d: d["validation"].update({"local liver": {}}), "local liver; expected"),
    "a way less": (lambda d: (d["testing"].pop(NAMES[1]), d["validation"].pop(NAMES[1])), "expected adapted all"),
    "a model among the numbers": (lambda d: d.update(weights=[0.25] * 100), "weights: got 'list'; expected no such"),
    "a fact that is none": (lambda d: d.update(device="gpu01.spleen.org"), "device: got 'gpu01.spleen.org'"),
    "cases that are no number": (
        lambda d: d["validation_cases"][NAMES[0]].update(spleen="a few"),
        "expected a number of cases",
    ),
    "no case": (lambda d: d["testing"].clear(), "expected adapted all"),
    "no scores at all": (lambda d: d.clear(), "validation: got 'NoneType'"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_no_good_is_refused_and_named(run, tmp_path, name):
    change, reason = BAD[name]
    server = told_by(run, tmp_path, liver=lambda _: answer_of(run, "liver"), spleen=changed(run, change))
    (failure,) = told(server, "failure")
    assert failure["site"] == "spleen"
    assert reason in failure["reason"]
    recorder = server.engine.components["recorder"]
    assert set(recorder.adapted) == {"liver"}
    assert recorder.history.notes == [f"spleen reported no adapted model: {failure['reason']}"]
    assert not told(server, "panic")


def test_a_site_that_sends_its_model_is_refused_and_named(run, tmp_path):
    server = told_by(run, tmp_path, liver=lambda _: answer_of(run, "liver"), spleen=as_weights)
    (failure,) = told(server, "failure")
    assert failure["site"] == "spleen"
    assert "WEIGHTS; expected numbers only" in failure["reason"]
    assert set(server.engine.components["recorder"].adapted) == {"liver"}
    assert {path.name for path in server.root.rglob("*.safetensors")} == {GLOBAL_MODEL, RUN_STATE}


def test_a_site_that_cannot_adapt_is_named_with_its_reason(run, tmp_path):
    server = told_by(run, tmp_path, liver=lambda _: answer_of(run, "liver"), spleen=refusing)
    notes = server.engine.components["recorder"].history.notes
    assert notes == ["spleen reported no adapted model: no space left for the job's files"]


def test_a_site_that_is_gone_is_named(run, tmp_path):
    """It is not asked, so it gives no answer that could be bad."""
    server = after_rounds(run, tmp_path, liver=lambda _: answer_of(run, "liver"), spleen=refusing)
    server.link.gone.add("spleen")
    server.run(evaluate=False)
    assert server.engine.components["recorder"].history.notes == ["spleen reported no adapted model: no answer"]
    assert [line["site"] for line in told(server, "adapted")] == ["liver"]


def test_notes_about_sites_reach_the_report(tiny, tiny_sites, tmp_path, without_figures):
    """The site still scores the federated model, and only the other one has adapted models."""
    server = make_with(tiny_sites, tmp_path)
    spleen = server.link.hospitals["spleen"]
    execute = spleen.execute
    spleen.execute = lambda name, *task: refusing(task[0]) if name == ADAPT else execute(name, *task)
    server.run(ways=["decoder_frozen"])
    report = report_of(server)
    assert "spleen reported no adapted model: no space left for the job's files" in report["notes"]
    assert set(report["sites"]) == set(SITES)
    assert {way: list(sites) for way, sites in report["adapted_sites"].items()} == {"decoder_frozen": ["liver"]}


def make_with(sites: dict[str, SiteConfig], root: Path, **plan) -> AdaptServer:
    hospitals = {n: HeadHospital(s, MargExc(), root / "sites" / n) for n, s in sites.items()}
    return serve(hospitals, root / "server", **plan)


def test_an_abort_names_no_site_that_was_not_asked(run, tmp_path):
    def abort(_: Shareable) -> Shareable:
        server.engine.signal.trigger("abort")
        return make_reply(ReturnCode.TASK_ABORTED)

    server = after_rounds(run, tmp_path, liver=abort, spleen=refusing)
    server.run(evaluate=False)
    assert not [note for note in server.engine.components["recorder"].history.notes if "spleen" in note]


def test_a_network_without_parts_ends_the_job_before_training(tiny, tiny_sites, tmp_path):
    server = make_with(tiny_sites, tmp_path, preset="tiny_heads")
    server.run()
    (panic,) = told(server, "panic")
    assert "preset: got 'a network of kind UNetConfig'" in panic["reason"]
    assert not [m for hospital in server.link.hospitals.values() for m in hospital.messages]


@pytest.mark.parametrize("kind", ["private heads", "nothing aggregated"])
def test_a_job_without_a_common_model_ends_before_training(tiny, tiny_sites, tmp_path, kind):
    server = make_with(
        tiny_sites, tmp_path, **({"preset": "tiny_heads", "exchange": "trunk"} if "heads" in kind else {})
    )
    if kind == "nothing aggregated":
        server.engine.components["shareable_generator"] = NoAggregation()
    server.run(ways=["all"])
    (panic,) = told(server, "panic")
    assert panic["reason"] == NO_COMMON_MODEL
    assert not [m for hospital in server.link.hospitals.values() for m in hospital.messages]


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 1, "ways": ["head"]}, {"steps": 1, "lr_factor": -1}])
def test_wrong_arguments_are_refused_when_the_job_is_built(arguments):
    with pytest.raises(ConfigError, match=r"adaptation\."):
        SiteAdaptation(**arguments)
