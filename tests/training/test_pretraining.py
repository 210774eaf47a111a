"""Pretraining rounds: who takes part, with which cases, and what begins anew after them (METHODS 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_local_trainer import assert_equal, differ, go_on
from test_schedule_plateau import HALVING

from federation import TINY, complete_labels, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.methods.base import LossTerms
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.margexc import MargExc
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.run_state import RunState
from fedpartial.sites import SiteConfig, SitePool
from fedpartial.training.local_trainer import FRESH, LocalTrainer
from fedpartial.training.plan import Plan
from fedpartial.training.schedule import Schedule
from fedpartial.training.site_session import SiteSession

FULL = TINY.label_space.labelled_mask(TINY.label_space.classes)
PRETRAINING = {"pretrain_rounds": 1, "pretrain_sites": ["full"]}


# --- the plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pretrain_rounds": 1}, "pretrain_sites"),
        ({"pretrain_rounds": 1, "pretrain_sites": []}, "pretrain_sites"),
        ({"pretrain_rounds": 3, "pretrain_sites": ["full"]}, "pretrain_rounds"),
        ({"pretrain_rounds": -1, "pretrain_sites": ["full"]}, "pretrain_rounds"),
        ({"pretrain_rounds": True, "pretrain_sites": ["full"]}, "pretrain_rounds"),
        ({"pretrain_rounds": "1", "pretrain_sites": ["full"]}, "pretrain_rounds"),
        ({"pretrain_rounds": 1.0, "pretrain_sites": ["full"]}, "pretrain_rounds"),
        ({"pretrain_rounds": 1, "pretrain_sites": "full"}, "pretrain_sites"),
        ({"pretrain_rounds": 1, "pretrain_sites": ["full", ""]}, "pretrain_sites"),
        ({"pretrain_rounds": 1, "pretrain_sites": [1]}, "pretrain_sites"),
        ({"pretrain_rounds": 1, "pretrain_sites": None}, "pretrain_sites"),
        ({"validate_every": 0}, "validate_every"),
        ({"validate_every": True}, "validate_every"),
        ({"validate_every": "4"}, "validate_every"),
    ],
)
def test_a_wrong_phase_is_refused_with_its_field(tiny, change, field):
    with pytest.raises(ConfigError) as caught:
        tiny_plan(**change)
    assert caught.value.field == field


def test_a_run_may_be_nothing_but_pretraining(tiny):
    plan = tiny_plan(pretrain_rounds=2, pretrain_sites=["full"])
    assert [plan.is_pretraining(number) for number in range(3)] == [True, True, False]
    assert plan.schedule == Schedule(num_rounds=2, local_steps=2, pretrain_rounds=2)
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("every", "pretrain_rounds", "expected"),
    [(1, 0, [1, 2, 3, 4, 5, 6, 7]), (3, 0, [3, 6]), (3, 2, [2, 3, 6]), (3, 3, [3, 6]), (9, 0, [])],
)
def test_the_model_is_scored_every_few_rounds_and_after_pretraining(tiny, every, pretrain_rounds, expected):
    """Not before the first round; after the last one the final evaluation scores it."""
    plan = tiny_plan(num_rounds=8, validate_every=every, pretrain_rounds=pretrain_rounds, pretrain_sites=["full"])
    assert [rounds for rounds in range(8) if plan.is_validated(rounds)] == expected


def test_a_stored_plan_of_an_earlier_version_has_no_pretraining(tiny):
    given = tiny_plan().to_dict()
    for name in ("pretrain_rounds", "pretrain_sites", "validate_every"):
        del given[name]
    assert Plan.from_stored(given) == tiny_plan()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pretrain_rounds": 2}, "pretrain_rounds"),
        ({"pretrain_rounds": 0}, "pretrain_rounds"),
        ({"pretrain_sites": ["full", "liver"]}, "pretrain_sites"),
    ],
)
def test_a_run_with_other_pretraining_is_not_continued(tiny, change, field):
    state = RunState(plan=tiny_plan(**PRETRAINING).to_dict(), rounds=1, weights={}, velocity={}, history={})
    state.check_continues(tiny_plan(**PRETRAINING, validate_every=2), where="here")
    with pytest.raises(ConfigError) as caught:
        state.check_continues(tiny_plan(**PRETRAINING | change), where="here")
    assert caught.value.field == field


# --- the trainer --------------------------------------------------------------------------------------


@dataclass
class Masks:
    """FedAvg that keeps the masks of its batches."""

    inner: FedAvg = field(default_factory=FedAvg)
    seen: list[torch.Tensor] = field(default_factory=list)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def loss(self, outputs, teacher_logits, labels, labelled, context) -> LossTerms:
        self.seen.append(labelled[:, 1:])
        return self.inner.loss(outputs, teacher_logits, labels, labelled, context)

    def full(self) -> list[bool]:
        """For every batch so far whether all of its patches annotate every class; forgets them."""
        found, self.seen = [bool(mask.all()) for mask in self.seen], []
        return found


PHASES = Schedule(num_rounds=3, local_steps=4, pretrain_rounds=1)


def test_pretraining_draws_fully_annotated_cases_only(make_trainer, weights, cases):
    method, mixed = Masks(), (replace(cases[0], labelled=FULL), cases[1])
    trainer = make_trainer(method=method, cases=mixed, schedule=PHASES)
    trainer.run_round(weights, 0, go_on)
    assert method.full() == [True] * 4
    trainer.run_round(weights, 1, go_on)
    assert not all(method.full())


def test_pretraining_is_training_on_these_cases_alone(make_trainer, weights, cases, tmp_path):
    full = replace(cases[0], labelled=FULL)
    mixed, alone = (
        make_trainer(method=FedAvg(), cases=given, schedule=PHASES, state_dir=tmp_path / str(len(given)))
        for given in ((full, cases[1]), (full,))
    )
    assert_equal(mixed.run_round(weights, 0, go_on).update, alone.run_round(weights, 0, go_on).update)
    assert differ(mixed.run_round(weights, 1, go_on).update, alone.run_round(weights, 1, go_on).update)


def test_a_pool_pretrains_with_its_fully_annotated_member(tiny, tiny_sites, weights, tmp_path):
    members = (full_site(tiny_sites), tiny_sites["spleen"])
    where = {"where": "sites/central.json", "model_dir": tmp_path}
    pool = SitePool(name="central", source="site file", members=members, device="cpu", **where)
    method, plan = Masks(), tiny_plan(local_steps=4, pretrain_rounds=1, pretrain_sites=["central"])
    session = SiteSession(site=pool, plan=plan, method=method, state_dir=tmp_path)
    session.train(weights, 0, go_on)
    assert method.full() == [True] * 8
    session.train(weights, 1, go_on)
    assert not all(method.full())


def test_a_site_without_a_fully_annotated_case_says_so(make_trainer, weights, tmp_path):
    trainer = make_trainer(method=FedAvg(), schedule=PHASES)
    with pytest.raises(ConfigError, match="no training case that annotates every class") as caught:
        trainer.run_round(weights, 0, go_on)
    assert (caught.value.where, caught.value.field) == ("site liver", "pretrain_sites")
    assert "set pretrain_rounds to 0" in caught.value.remedy
    assert not (tmp_path / "state").exists()
    trainer.run_round(weights, 1, go_on)


@pytest.fixture
def full_trainer(make_trainer, cases) -> Callable[..., LocalTrainer]:
    """Builds trainers of a fully annotated site."""
    full = tuple(replace(case, labelled=FULL) for case in cases)
    return lambda **options: make_trainer(**{"method": FedAvg(), "cases": full, "schedule": PHASES, **options})


@pytest.mark.parametrize("lasting", [True, False], ids=["lasting", "a new process per round"])
def test_momentum_begins_anew_after_pretraining(full_trainer, weights, tmp_path, lasting):
    trainer = full_trainer()
    trainer.run_round(weights, 0, go_on)
    kept = trainer if lasting else full_trainer()
    found = [kept.run_round(weights, 1, go_on), kept.run_round(weights, 2, go_on)]
    fresh = full_trainer(state_dir=tmp_path / "fresh")
    expected = [fresh.run_round(weights, number, go_on) for number in (1, 2)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours.update, theirs.update)
    assert [result.metrics["optimizer_round"] for result in found] == [FRESH, 1]


def test_without_pretraining_momentum_goes_on(full_trainer, weights, tmp_path):
    plain = replace(PHASES, pretrain_rounds=0)
    kept, fresh = (full_trainer(schedule=plain, state_dir=tmp_path / name) for name in ("kept", "fresh"))
    kept.run_round(weights, 0, go_on)
    results = [trainer.run_round(weights, 1, go_on) for trainer in (kept, fresh)]
    assert differ(results[0].update, results[1].update)
    assert [result.metrics["optimizer_round"] for result in results] == [0, FRESH]


def test_the_learning_rate_by_plateau_begins_anew_after_pretraining(full_trainer, weights):
    trainer, factors = full_trainer(preset=HALVING, schedule=replace(PHASES, num_rounds=5, pretrain_rounds=3)), []
    for number in range(5):
        factors.append(trainer._restore(number).plateau.factor)
        trainer.run_round(weights, number, go_on)
    assert factors == [1.0, 1.0, 0.5, 1.0, 1.0]


def test_a_sites_own_weights_go_on_after_pretraining(full_trainer, weights):
    trainer = full_trainer(start_from="local")
    trainer.run_round(weights, 0, go_on)
    left = trainer.local_weights()
    assert differ(left, weights)
    assert_equal(dict(trainer.starting_weights(weights, 1)), left)
    assert trainer.run_round(weights, 1, go_on).metrics["optimizer_round"] == FRESH


# --- a federation -------------------------------------------------------------------------------------


def full_site(tiny_sites: dict[str, SiteConfig]) -> SiteConfig:
    """The liver hospital as one that annotates every class, although its files show two."""
    return replace(tiny_sites["liver"], name="full", labels=complete_labels())


def global_models(sites: dict[str, SiteConfig], plan: Plan, folder: Path) -> list[dict[str, np.ndarray]]:
    """The global weights after every round, means weighted by training cases."""
    weights = {n: t.numpy() for n, t in canonical_state(build_network(plan.config, seed=plan.seed)).items()}
    sessions = {
        name: SiteSession(site=site, plan=plan, method=MargExc(), state_dir=folder / name)
        for name, site in sites.items()
    }
    sizes = {name: len(session.split("training")) for name, session in sessions.items()}
    models = []
    for number in range(plan.num_rounds):
        asked = plan.pretrain_sites if plan.is_pretraining(number) else tuple(sessions)
        received = {name: torch.from_numpy(value) for name, value in weights.items()}
        results = {name: sessions[name].train(received, number, go_on).update for name in asked}
        updates = {name: {n: t.numpy() for n, t in update.items()} for name, update in results.items()}
        change = weighted_mean(updates, {name: sizes[name] for name in asked})
        weights = {name: value + change[name] for name, value in weights.items()}
        models.append(weights)
    return models


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_pretraining_is_the_fully_annotated_sites_own_run(tiny, tiny_sites, tmp_path, monkeypatch, schedule):
    """jobs/psmos_pretrain is the first phase of jobs/psmos with the same seed, bit for bit."""
    from fedpartial import presets

    monkeypatch.setitem(presets.PRESETS, "here", replace(HALVING if schedule == "plateau" else TINY, name="here"))
    sites = {"full": full_site(tiny_sites), "spleen": tiny_sites["spleen"]}
    length = {"pretrain_rounds": 3, "num_rounds": 4}
    whole = global_models(sites, tiny_plan(preset="here", pretrain_sites=["full"], **length), tmp_path / "whole")
    alone = global_models({"full": sites["full"]}, tiny_plan(preset="here", num_rounds=3), tmp_path / "alone")
    assert all(np.array_equal(whole[r][name], alone[r][name]) for r in range(3) for name in alone[r])
    assert not any(np.array_equal(whole[3][name], alone[2][name]) for name in alone[2])
