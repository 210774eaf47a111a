"""A stage waits for k of n models or until a deadline; a model that comes late is there for the next stage."""

from __future__ import annotations

import threading
import time

import pytest
from one_stage import Federation, StageServer, trained_federation
from test_private_heads_faults import Changed, no_answer

from fedpartial.errors import ConfigError
from fedpartial.flare.single_round import SingleRound
from fedpartial.flare.site_executor import LEARN, RECEIVE
from fedpartial.flare.uploads import Patience
from fedpartial.networks.universal import universal_classes
from one_round import counted_steps, home, same_tensors, stage_sites, universal  # noqa: F401

SECONDS = 30.0
"""How long anything here may wait before the test fails."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("stage_sites"))


@pytest.fixture(scope="module")
def trained(universal, sites, tmp_path_factory) -> Federation:  # noqa: F811
    """All three sites have their local models; the store knows none of them."""
    return trained_federation(sites, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def federation(trained, tmp_path) -> Federation:
    return trained.copied(tmp_path)


class Never:
    """A site that is still training when the job is over."""

    def __init__(self, server: StageServer, site: str):
        self.over, self.server, self.site = threading.Event(), server, site
        server.link.late[site] = self

    def __call__(self) -> bool:
        """FLARE's client drops what the job does not want any more."""
        self.over.wait(SECONDS)
        return False

    def end(self) -> None:
        self.over.set()
        self.server.link.threads[self.site].join(SECONDS)


def test_a_site_that_is_still_training_is_left_out_and_named(federation):
    server = federation.stage("liver", "spleen", "amos", name="stage1")
    amos = Never(server, "amos")
    server.run(min_clients=2, enough=2)
    amos.end()
    assert not server.panics
    assert server.link.asked == [(LEARN, "liver"), (LEARN, "spleen"), (RECEIVE, "liver"), (RECEIVE, "spleen")]
    assert federation.store.latest_global().teachers == {"liver": 1, "spleen": 1}
    report = server.report()
    assert "amos gave no model to this stage: it has not finished" in report["notes"]
    assert set(report["sites"]) == {"liver", "spleen"}


def arriving(monkeypatch, server: StageServer, site: str, what: str) -> None:
    """The model of ``site`` comes while the server, in the middle of a distillation, says ``what``."""
    may_come, say = threading.Event(), SingleRound._say
    server.link.late[site] = lambda: may_come.wait(SECONDS)

    def said(workflow: SingleRound, now: str, *counts: int) -> None:
        if now.startswith(what) and not may_come.is_set():
            may_come.set()
            server.link.threads[site].join(SECONDS)
            assert not server.link.threads[site].is_alive()
        say(workflow, now, *counts)

    monkeypatch.setattr(SingleRound, "_say", said)


def test_a_model_that_comes_during_distillation_waits_for_the_next_stage(federation, monkeypatch):
    server = federation.stage("liver", "amos", name="stage1")
    with monkeypatch.context() as patch:
        arriving(patch, server, "amos", "maps of liver")
        server.run(min_clients=1, enough=1)
    assert not server.panics
    assert federation.versions() == {"amos": 1, "liver": 1}
    assert federation.store.latest_global().teachers == {"liver": 1}
    assert universal_classes(server.written_model()) == ("liver", "liver_tumor")
    assert server.link.asked[2:] == [(RECEIVE, "liver"), (RECEIVE, "amos")]  # it has finished, so it gets the model
    assert server.report()["notes"].count("amos gave no model to this stage: it has not finished") == 1
    following = federation.stage("spleen", name="stage2").run()
    assert not following.panics
    assert following.link.asked == [(LEARN, "spleen"), (RECEIVE, "spleen")]
    assert federation.store.latest_global().teachers == {"amos": 1, "liver": 1, "spleen": 1}


def test_the_stage_with_a_late_model_distils_as_if_it_had_not_come(federation, trained, tmp_path, monkeypatch):
    server = federation.stage("liver", "amos", name="stage1")
    with monkeypatch.context() as patch:
        arriving(patch, server, "amos", "distillation")
        server.run(min_clients=1, enough=1, evaluate=False)
    alone = trained.copied(tmp_path / "alone")
    alone.stage("liver", name="stage1").run(evaluate=False)
    assert same_tensors(federation.global_model(), alone.global_model())


def test_without_enough_the_server_waits_for_every_site(federation):
    server = federation.stage("liver", "amos", name="stage1")
    server.link.late["amos"] = lambda: time.sleep(0.3)
    server.run(min_clients=1, evaluate=False)
    assert federation.store.latest_global().teachers == {"amos": 1, "liver": 1}


def test_who_comes_within_the_grace_is_distilled_too(federation):
    server = federation.stage("liver", "amos", name="stage1")
    server.link.late["amos"] = lambda: time.sleep(0.2)
    server.run(min_clients=1, enough=1, grace=SECONDS, evaluate=False)
    assert federation.store.latest_global().teachers == {"amos": 1, "liver": 1}


def test_the_grace_ends_and_so_does_the_deadline(federation):
    for name, patience in (("grace", {"enough": 1, "grace": 0.2}), ("deadline", {"deadline": 0.2})):
        server = federation.stage("liver", "amos", name=name)
        amos = Never(server, "amos")
        began = time.monotonic()
        server.run(min_clients=1, evaluate=False, **patience)
        assert 0.2 < time.monotonic() - began < SECONDS
        amos.end()
        assert federation.store.latest_global().teachers == {"liver": 1}
        assert not server.panics


def test_a_site_that_dies_is_not_waited_for(federation):
    server = federation.stage("liver", "amos", name="stage1")
    amos = Never(server, "amos")
    threading.Timer(0.2, server.link.gone.add, ["amos"]).start()
    server.run(min_clients=1)
    amos.end()
    assert federation.store.latest_global().teachers == {"liver": 1}
    assert "amos gave no model to this stage: gone" in server.report()["notes"]


def test_with_too_few_models_the_job_ends_and_names_who_is_missing(federation):
    server = federation.stage("liver", "spleen", "amos", name="stage1")
    amos = Never(server, "amos")
    server.link.hospitals["spleen"].execute = fails
    server.run(min_clients=2, deadline=0.2)
    amos.end()
    assert server.panics == [
        "1 model(s) came and the stage needs 2. spleen: EXECUTION_EXCEPTION; amos: it has not finished. "
        "What came is kept in the store for the next stage."
    ]
    assert federation.versions() == {"liver": 1}
    assert not federation.store.globals()
    assert RECEIVE not in dict(server.link.asked)


def fails(*_) -> None:
    raise RuntimeError("a fault of the site's own")


def test_what_came_before_too_few_came_is_not_trained_again(federation):
    server = federation.stage("liver", "spleen", name="stage1")
    server.link.hospitals["spleen"].execute = fails
    server.run(min_clients=2)
    with pytest.MonkeyPatch.context() as patch:
        steps = counted_steps(patch)
        server = federation.stage("liver", "spleen", name="again").run()
    assert not steps
    assert [(line["site"], line["version"]) for line in server.told("model")] == [("liver", 1), ("spleen", 1)]
    assert federation.store.latest_global().teachers == {"liver": 1, "spleen": 1}


def test_the_ledger_has_the_steps_of_a_model_whose_upload_was_lost(sites, tmp_path):
    federation = Federation(sites, tmp_path)
    first = federation.stage("liver", name="lost")
    first.link.hospitals["liver"] = Changed(first.link.hospitals["liver"], no_answer, LEARN)
    first.run()
    federation.stage("liver", name="stage1").run(evaluate=False)
    assert federation.store.ledger.summary()[-1].cumulative.sites["liver"].steps == 4


@pytest.mark.parametrize("field", ["min_clients", "enough", "grace", "deadline"])
def test_patience_is_no_nan(field):
    with pytest.raises(ConfigError, match=f"job: {field}: got "):
        Patience(**{"min_clients": 1, field: float("nan")})


@pytest.mark.parametrize("field", ["min_clients", "enough", "grace", "deadline"])
@pytest.mark.parametrize("value", [-1, True, "2", None])
def test_patience_is_a_number_of_at_least_0(field, value):
    with pytest.raises(ConfigError, match=f"job: {field}: got "):
        Patience(**{"min_clients": 1, field: value})
