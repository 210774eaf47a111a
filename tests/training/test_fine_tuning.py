"""The phase after the rounds: heads move, the trunk does not (METHODS 2.3, bug S5)."""

from __future__ import annotations

import pytest
import torch

from fedpartial.methods.segviz import SegViz
from fedpartial.networks.canonical import StateMismatch
from fedpartial.networks.split import is_head
from fedpartial.training.local_trainer import TrainingStopped
from fedpartial.training.site_session import SiteSession
from private_heads import federate_heads, heads_plan, tensors

STEPS = 6


@pytest.fixture(scope="module")
def trained(tiny, tiny_sites, tmp_path_factory):
    plan = heads_plan(exchange="trunk_without_norms", num_rounds=1, finetune_steps=STEPS)
    run = federate_heads({"liver": tiny_sites["liver"]}, plan, tmp_path_factory.mktemp("tuned"))
    return run.sessions["liver"], tensors(run.shared[-1])


def scores_of(session: SiteSession, monkeypatch, dice: list[float]) -> list[dict]:
    """Let validation give these numbers, one after the other; the states it was asked about."""
    asked, given = [], iter(dice)

    def fake(state, stop):
        asked.append({name: tensor.clone() for name, tensor in state.items()})
        value = next(given)
        return {} if value is None else {"liver": [value]}

    monkeypatch.setattr(session, "validation_scores", fake)
    return asked


@pytest.mark.parametrize("norms", [True, False])
def test_the_frozen_trunk_is_bit_identical_and_every_head_tensor_moves(trained, monkeypatch, norms):
    session, weights = trained
    before = dict(session.starting_weights(weights, 1))
    scores_of(session, monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5])
    session.fine_tune(weights, lambda: False)
    after = session.trainer.local_weights()
    names = [n for n in after if not is_head(n) and ("running" in n) == norms]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert all(not torch.equal(before[name], after[name]) for name in after if is_head(name))


def test_the_best_heads_are_kept_and_stored(trained, monkeypatch):
    session, weights = trained
    asked = scores_of(session, monkeypatch, [0.3, 0.5, 0.9, 0.2, 0.4])
    metrics = session.fine_tune(weights, lambda: False)
    assert (metrics["dice_before"], metrics["dice_after"]) == (0.3, 0.9)
    stored = session.trainer.stored_private_part()
    assert stored
    assert all(torch.equal(stored[name], asked[2][name]) for name in stored)
    assert not all(torch.equal(asked[4][name], asked[2][name]) for name in stored)


def test_tuning_that_only_hurts_leaves_the_heads_of_the_rounds(trained, monkeypatch):
    session, weights = trained
    before = dict(session.starting_weights(weights, 1))
    scores_of(session, monkeypatch, [0.8, 0.1, 0.2, 0.3, 0.4])
    metrics = session.fine_tune(weights, lambda: False)
    assert metrics["dice_after"] == metrics["dice_before"] == 0.8
    assert all(torch.equal(tensor, before[n]) for n, tensor in session.trainer.stored_private_part().items())


def test_a_site_without_validation_cases_keeps_the_last_heads(trained, monkeypatch):
    session, weights = trained
    asked = scores_of(session, monkeypatch, [None] * 5)
    metrics = session.fine_tune(weights, lambda: False)
    assert "dice_after" not in metrics
    assert all(torch.equal(tensor, asked[4][n]) for n, tensor in session.trainer.stored_private_part().items())


def test_the_phase_can_be_repeated_with_the_same_result(trained, monkeypatch):
    session, weights = trained
    found = []
    for _ in range(2):
        scores_of(session, monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5])
        session.fine_tune(weights, lambda: False)
        found.append(session.trainer.stored_private_part())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_site_without_trained_heads_has_none_to_tune(tiny, tiny_sites, trained, tmp_path):
    """It has lost its state, or never took part: tuned heads of the seed would pass for the site's."""
    session, weights = trained
    fresh = SiteSession(site=tiny_sites["liver"], plan=session.plan, method=SegViz(), state_dir=tmp_path)
    with pytest.raises(StateMismatch, match="no head to tune"):
        fresh.fine_tune(weights, lambda: False)
    assert not fresh.trainer.stored_private_part()


def test_stop_ends_the_phase_within_a_step(trained, monkeypatch):
    session, weights = trained
    scores_of(session, monkeypatch, [0.1] * 5)
    with pytest.raises(TrainingStopped):
        session.fine_tune(weights, lambda: True)
    assert all(p.requires_grad for p in session.trainer.network.parameters())
