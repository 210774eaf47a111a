"""Site adaptation in three ways: what is frozen is the federated model's, bit for bit (METHODS 3.5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_local_trainer import assert_equal, go_on
from test_passes import TINY_MENU
from test_tuning import scorer
from torch import Tensor

from federation import TINY, tiny_plan
from fedpartial.data.store import prepare_cases
from fedpartial.errors import ConfigError
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.methods.margexc import MargExc
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.parts import is_encoder
from fedpartial.training.adaptation import AdaptationPlan, adapt
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.reported import ADAPTATION_WAYS
from fedpartial.training.site_session import SiteSession
from private_heads import heads_plan

PLAN = AdaptationPlan(steps=3, lr_factor=1.0)
MOVES = {"all": {True, False}, "encoder_frozen": {False}, "decoder_frozen": {True}}
"""Way -> whether what moves is encoder."""


@pytest.fixture
def trainer_of(make_trainer, tiny_sites) -> Callable[[str], LocalTrainer]:
    """Trainers of the liver site by kind of network."""

    def make(kind: str) -> LocalTrainer:
        if kind == "DynUNet":
            return make_trainer(method=MargExc())
        cases = prepare_cases(tiny_sites["liver"], TINY_MENU).training
        return make_trainer(method=FedMenu(), preset=TINY_MENU, cases=cases)

    return make


def federated(trainer: LocalTrainer) -> dict[str, Tensor]:
    return canonical_state(build_network(trainer.preset, seed=7))


@pytest.mark.parametrize("way", ADAPTATION_WAYS)
@pytest.mark.parametrize("kind", ["DynUNet", "MENU-Net"])
def test_what_is_frozen_is_bit_identical_and_the_rest_moves(trainer_of, kind, way):
    trainer = trainer_of(kind)
    weights = federated(trainer)
    asked = scorer(0.1, 0.2)
    adapted = adapt(trainer, weights, way, PLAN, asked[0], go_on).weights
    assert list(adapted) == list(weights)
    moved = {name for name in weights if not torch.equal(adapted[name], weights[name])}
    assert {is_encoder(name, trainer.preset.network) for name in moved} == MOVES[way]
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())
    if kind == "DynUNet":
        could = {name for name in weights if is_encoder(name, TINY.network) in MOVES[way]}
        assert len(moved) > 0.6 * len(could)
    else:
        assert {name.split(".")[1] for name in moved if name.startswith("encoders.")} <= {"liver"}


def test_each_way_starts_from_the_federated_model(trainer_of):
    """Whatever was adapted before: the order of the ways does not matter."""
    trainer = trainer_of("DynUNet")
    weights, found = federated(trainer), {}
    for way in (*ADAPTATION_WAYS, *reversed(ADAPTATION_WAYS)):
        found.setdefault(way, []).append(adapt(trainer, weights, way, PLAN, scorer(0.1, 0.2)[0], go_on).weights)
    for first, second in found.values():
        assert_equal(first, second)


def test_a_start_that_was_better_does_not_compete(trainer_of):
    """Harm is to be seen: the better of the states that were trained is kept, however bad."""
    trainer = trainer_of("DynUNet")
    weights = federated(trainer)
    score, asked = scorer(0.02, 0.01)
    kept = adapt(trainer, weights, "all", PLAN, score, go_on)
    assert kept.dice == 0.02
    assert_equal(kept.weights, asked[0])
    assert not torch.equal(next(iter(asked[0].values())), next(iter(weights.values())))


def test_a_site_without_validation_cases_keeps_the_last_state(tiny, tiny_sites, tmp_path):
    session = SiteSession(site=tiny_sites["liver"], plan=tiny_plan(), method=MargExc(), state_dir=tmp_path)
    session.cases = {**session.cases, "validation": []}
    weights = federated(session.trainer)
    kept, scores = session.adapt(weights, "all", PLAN, go_on)
    assert (kept.dice, scores) == (None, {})
    assert_equal(kept.weights, session.trainer.local_weights())


def test_the_validation_of_the_site_decides(tiny, tiny_sites, tmp_path, monkeypatch):
    session = SiteSession(site=tiny_sites["liver"], plan=tiny_plan(), method=MargExc(), state_dir=tmp_path)
    given = [{"liver": [0.5, 0.7], "liver_tumor": [0.2]}, {"liver": [0.3], "liver_tumor": [0.2]}]
    answers = iter(given)
    monkeypatch.setattr(session, "validation_scores", lambda state, stop: next(answers))
    kept, scores = session.adapt(federated(session.trainer), "all", PLAN, go_on)
    assert kept.dice == pytest.approx(0.4)
    assert scores is given[0], "of the state that is kept"


def test_the_scores_handed_over_are_those_of_the_kept_state(tiny, tiny_sites, tmp_path):
    """Nobody has to validate it again."""
    session = SiteSession(site=tiny_sites["liver"], plan=tiny_plan(), method=MargExc(), state_dir=tmp_path)
    kept, scores = session.adapt(federated(session.trainer), "all", PLAN, go_on)
    assert scores
    assert scores == session.validation_scores(kept.weights)


def test_a_network_without_encoder_and_decoder_cannot_adapt(tiny, tiny_sites, tmp_path):
    plan = heads_plan()
    session = SiteSession(site=tiny_sites["liver"], plan=plan, method=SegViz(), state_dir=tmp_path)
    with pytest.raises(ConfigError, match="a network of kind UNetConfig"):
        session.adapt({}, "encoder_frozen", PLAN, go_on)


# --- the plan of an adaptation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", True),
        ("steps", 2.0),
        ("steps", "2"),
        ("lr_factor", 0),
        ("lr_factor", -0.1),
        ("lr_factor", True),
        ("lr_factor", "0.1"),
        ("lr_factor", float("nan")),
        ("lr_factor", float("inf")),
        ("ways", []),
        ("ways", "everything"),
        ("ways", ["all", "all"]),
        ("ways", ["all", "nothing"]),
        ("ways", [["all"]]),
        ("ways", None),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(field, value):
    with pytest.raises(ConfigError) as caught:
        AdaptationPlan(**{"steps": 1, field: value})
    assert caught.value.field == f"adaptation.{field}"


def test_the_plan_survives_the_message():
    plan = AdaptationPlan(steps=4, lr_factor=0.5, ways=["decoder_frozen"])
    assert AdaptationPlan.from_dict(plan.to_dict()) == plan
    assert AdaptationPlan(steps=1).ways == ADAPTATION_WAYS
    assert AdaptationPlan(steps=1, ways="all").ways == ("all",)


@pytest.mark.parametrize("given", [None, {}, {"steps": 1}, {**PLAN.to_dict(), "epochs": 3}])
def test_a_message_of_another_make_is_refused(given):
    with pytest.raises(ConfigError):
        AdaptationPlan.from_dict(given)
