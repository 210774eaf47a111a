"""How jobs with private heads start: what is refused before training, and the trunk of another run; with what the
other tests of such jobs need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from in_process import Engine, Hospital, Server, context
from nvflare.apis.event_type import EventType
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.fuel.utils import fobs

from fedpartial.errors import ConfigError
from fedpartial.flare.final_evaluation import NO_WHOLE_MODELS, FinalEvaluation
from fedpartial.flare.head_collection import HeadCollection
from fedpartial.flare.learner import SiteLearner
from fedpartial.flare.leaving import walk
from fedpartial.flare.persistor import GLOBAL_MODEL, TRUNK_MODEL, GlobalModelFile
from fedpartial.flare.rounds import FederatedRounds
from fedpartial.flare.site_executor import SiteExecutor
from fedpartial.flare.standalone import NoAggregation
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import is_head
from fedpartial.server.heads import initial_shared
from fedpartial.sites import SiteConfig
from fedpartial.training.model_file import load_model, model_info, save_model
from private_heads import federate_heads, heads_plan
from segviz_sites import random_state


@dataclass(frozen=True, kw_only=True)
class Message:
    """One task of a site as it was on the wire, there and back."""

    task: str
    sent: bytes
    answered: bytes


class HeadHospital(Hospital):
    """A site of a job with private heads, which keeps all its messages."""

    messages: tuple[Message, ...] = ()

    def execute(self, task_name: str, task: Shareable, signal: Signal | None = None) -> Shareable:
        if self.executor is None or not self.lasting:
            self.executor = SiteExecutor("learner")
            learner = SiteLearner(self.method, self.start_from)
            self.fl_ctx = context(Engine({"learner": learner}), self.name, self.root)
        sent = fobs.dumps(task)
        answer = self.executor.execute(task_name, task, self.fl_ctx, signal or Signal())
        self.messages += (Message(task=task_name, sent=sent, answered=fobs.dumps(answer)),)
        return answer


class HeadServer(Server):
    """The server of a job with the components and workflows of jobs/segviz_fedbn_ft."""

    def run(self, *, min_clients: int | None = None, evaluate: bool = True, **evaluation) -> None:
        rounds = FederatedRounds(min_clients=min_clients or len(self.engine.sites), num_rounds=self.plan.num_rounds)
        final = [FinalEvaluation(**{"cross_site": False, **evaluation})] if evaluate else []
        self.engine.workflows += [rounds, HeadCollection(), *final]
        self.engine.fire_event(EventType.START_RUN, self.fl_ctx)
        for workflow in self.engine.workflows:
            if self.engine.signal.triggered:
                return
            workflow.set_communicator(self.link)
            workflow.initialize(self.fl_ctx)
            workflow.control_flow(self.engine.signal, self.fl_ctx)


def make_job(
    sites: dict[str, SiteConfig], root: Path, *, method=None, alone: bool = False, lasting: bool = True, **plan
) -> HeadServer:
    """A federation of these sites under ``root``; ``alone``: nothing is aggregated."""
    options = {"lasting": lasting, "start_from": "local" if alone else "global"}
    hospitals = {n: HeadHospital(s, method or SegViz(), root / "sites" / n, **options) for n, s in sites.items()}
    return serve(hospitals, root, NoAggregation() if alone else FullModelShareableGenerator(), **plan)


def serve(hospitals: dict, root: Path, generator=None, **plan) -> HeadServer:
    """A server for hospitals that may have had another one."""
    values = {name: value for name, value in heads_plan(**plan).to_dict().items() if name != "job"}
    return HeadServer(root / "server", hospitals, generator or FullModelShareableGenerator(), **values)


def told(server: Server, event: str) -> list[dict]:
    """The lines of the progress file about one kind of event."""
    return [line for line in server.progress() if line["event"] == event]


def assembled_model(server: Server) -> dict[str, np.ndarray]:
    return load_model(server.app / GLOBAL_MODEL)[0]


def assert_equal(found: dict, expected: dict) -> None:
    """Bit for bit; a file has no scalars, only arrays of one number."""
    assert set(found) == set(expected)
    assert not [n for n in expected if not np.array_equal(np.atleast_1d(found[n]), np.atleast_1d(expected[n]))]


def tensor_names(message: bytes) -> list[str]:
    """The name of every array in a message, wherever it stands."""
    return [path[-1] for path, value in walk(fobs.loads(message)) if isinstance(value, np.ndarray)]


@pytest.fixture(scope="module")
def every_tuning_helps() -> Iterator[None]:
    """As at a site without validation cases: tuned heads are kept, whatever the Dice of such a tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpartial.training.site_session.mean_dice", lambda scores: {})
        yield


def test_whole_models_of_sites_are_refused_before_anything_is_trained(tiny, tiny_sites, tmp_path):
    server = make_job(tiny_sites, tmp_path)
    server.run(cross_site=True)
    assert [line["reason"] for line in told(server, "panic")] == [NO_WHOLE_MODELS]
    assert not [message for hospital in server.link.hospitals.values() for message in hospital.messages]


@pytest.mark.parametrize(
    ("exchange", "order", "reason"),
    [
        ("trunk", ["splen"], "got 'splen'; expected classes out of liver"),
        ("all", ["spleen"], "this run has a joint head"),
    ],
)
def test_a_fusion_that_cannot_be_ends_the_job_before_training(tiny, tiny_sites, tmp_path, exchange, order, reason):
    server = make_job(tiny_sites, tmp_path, exchange=exchange)
    server.run(fusion={"rule": "priority", "priority": order})
    assert reason in told(server, "panic")[0]["reason"]
    assert not [message for hospital in server.link.hospitals.values() for message in hospital.messages]


def test_a_method_of_a_joint_head_is_refused_and_the_server_learns_why(tiny, tiny_sites, tmp_path, caplog):
    server = make_job(tiny_sites, tmp_path, method=FedAvg())
    server.run()
    reason = "expected SegViz where the trunk is exchanged"
    assert reason in told(server, "failure")[0]["reason"]
    (panic,) = told(server, "panic")
    assert f"liver: a field: {reason}" in panic["reason"]
    assert [r for r in caplog.records if r.levelname == "ERROR" and "site liver failed" in r.message]
    assert not (server.app / TRUNK_MODEL).exists()


@pytest.fixture(scope="module")
def earlier(tiny, tiny_sites, tmp_path_factory) -> dict[str, np.ndarray]:
    """The assembled model of a run of the liver hospital alone."""
    server = make_job({"liver": tiny_sites["liver"]}, tmp_path_factory.mktemp("earlier"), num_rounds=1)
    server.run(evaluate=False)
    return assembled_model(server)


def start_from(server: HeadServer, model: dict[str, np.ndarray]) -> None:
    """Put the model into the job, as whoever submits it does."""
    server.engine.components["persistor"] = GlobalModelFile(start_from="start.safetensors")
    save_model(server.app / "start.safetensors", model, model_info(server.plan, 1))


def test_a_new_site_joins_from_the_trunk_of_an_earlier_run(tiny, tiny_sites, earlier, tmp_path, monkeypatch):
    """The liver hospital's head starts anew as well: with another seed it is another one."""
    plan = {"num_rounds": 1, "seed": 5}
    server = make_job(tiny_sites, tmp_path, **plan)
    start_from(server, earlier)
    server.run(evaluate=False)
    trunk = {name: earlier[name] for name in initial_shared(server.plan)}
    assert not any(np.array_equal(trunk[name], value) for name, value in initial_shared(server.plan).items())
    monkeypatch.setattr("private_heads.initial_shared", lambda plan: trunk)
    plain = federate_heads(tiny_sites, heads_plan(**plan), tmp_path / "plain")
    assert_equal(assembled_model(server), plain.assembled())
    for site, session in plain.sessions.items():
        new = canonical_state(build_network(server.plan.config, seed=5, head_classes=session.head_classes))
        heads = {name: tensor for name, tensor in plain.started[0][site].items() if is_head(name)}
        assert_equal(heads, {name: tensor for name, tensor in new.items() if is_head(name)})


@pytest.mark.parametrize("other", ["another preset", "an ensemble without a shared trunk"])
def test_a_model_without_the_trunk_of_this_network_is_refused(tiny, tiny_sites, earlier, tmp_path, other):
    small = random_state(["liver"], seed=1)
    heads = {name: small.pop(name) for name in list(small) if is_head(name)}
    models = {
        "another preset": assemble(small, {"liver": heads}, {"liver": 2}),
        "an ensemble without a shared trunk": {n: v for n, v in earlier.items() if "/" in n},
    }
    server = make_job(tiny_sites, tmp_path)
    start_from(server, models[other])
    with pytest.raises(ConfigError, match="Start from a model of the same preset"):  # FLARE makes a panic of it
        server.run()
    assert not [message for hospital in server.link.hospitals.values() for message in hospital.messages]
