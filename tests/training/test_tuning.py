"""Training of a part of a network after the rounds: what moves, at which rate, and which state is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_local_trainer import assert_equal, differ, go_on
from torch import Tensor, nn

from federation import TINY
from fedpartial.methods.fedavg import FedAvg
from fedpartial.training.local_trainer import LocalTrainer, TrainingStopped
from fedpartial.training.schedule import Schedule, cosine
from fedpartial.training.tuning import only, tune

STEPS = 5


@pytest.fixture
def trainer(make_trainer, weights) -> LocalTrainer:
    """A trainer whose network holds the global model."""
    made = make_trainer(method=FedAvg(), schedule=Schedule(num_rounds=3, local_steps=2))
    made.load(weights, 3)
    return made


def scorer(*dice: float | None) -> tuple[Callable, list[dict[str, Tensor]]]:
    """Gives these numbers one after the other, and the list of the states that it was asked about."""
    asked, given = [], iter(dice)

    def score(state: dict[str, Tensor]) -> float | None:
        asked.append({name: tensor.clone() for name, tensor in state.items()})
        return next(given)

    return score, asked


def tuned(trainer: LocalTrainer, score: Callable, **changes):
    given = {"trained": lambda name: True, "steps": STEPS, "checks": 2, "score": score, "stop": go_on}
    return tune(trainer, **given | changes)


# --- what moves ---------------------------------------------------------------------------------------


def two_parts() -> nn.Module:
    """A trunk and a head, each with a batch normalisation."""
    parts = {name: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for name in ("trunk", "head")}
    return nn.Sequential(*parts.values())


def test_running_statistics_of_a_frozen_part_do_not_move():
    """The published SegViz notebooks froze the parameters only (METHODS 2.3, bug S5)."""
    network = two_parts()
    head = {name for name, _ in network.named_parameters() if name.startswith("1.")}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with only(network, head):
        network(torch.randn(4, 3)).square().sum().backward()
        assert all((p.grad is not None) == (name in head) for name, p in network.named_parameters())
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"1.1.running_mean", "1.1.running_var", "1.1.num_batches_tracked"}


def test_afterwards_everything_can_train_again_whatever_happened():
    network = two_parts().eval()
    with pytest.raises(ZeroDivisionError), only(network, {"1.0.weight"}):
        1 / 0  # noqa: B018
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_gradients_that_a_round_left_in_a_frozen_part_are_forgotten():
    """Clipping counts every gradient of the network."""
    network = two_parts()
    network(torch.randn(4, 3)).square().sum().backward()
    with only(network, {"1.0.weight"}):
        assert {name for name, p in network.named_parameters() if p.grad is not None} == {"1.0.weight"}


# --- the steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.1, 1e-9])
def test_the_rate_falls_by_a_cosine_from_its_part_of_the_presets(trainer, monkeypatch, factor):
    rates, step = [], trainer._step

    def noted(batch, context, teacher, optimizer, *rest):
        rates.append(optimizer.lr)
        return step(batch, context, teacher, optimizer, *rest)

    monkeypatch.setattr(trainer, "_step", noted)
    tuned(trainer, scorer(0.1, 0.2)[0], lr_factor=factor)
    config = TINY.optimizer
    expected = [max(factor * cosine(config, step, STEPS), config.min_lr) for step in range(STEPS)]
    assert rates == expected
    assert rates[0] == max(factor * config.lr, config.min_lr)


def test_patches_follow_those_of_the_rounds(trainer, monkeypatch):
    seen, step = [], trainer._step

    def noted(*given):
        seen.append(given[-1])
        return step(*given)

    monkeypatch.setattr(trainer, "_step", noted)
    tuned(trainer, scorer(0.1, 0.2)[0])
    assert seen == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(("steps", "checks", "scored"), [(5, 2, 2), (1, 2, 1), (3, 4, 3)])
def test_a_short_phase_is_scored_once_a_step_at_most(trainer, steps, checks, scored):
    score, asked = scorer(*[0.1] * scored)
    result = tuned(trainer, score, steps=steps, checks=checks)
    assert len(asked) == scored
    assert result.sums["loss"] == pytest.approx(result.sums["dice"] + result.sums["ce"], rel=1e-6)


def test_the_phase_can_be_repeated_with_the_same_result(trainer, weights):
    found = []
    for _ in range(2):
        trainer.load(weights, 3)
        found.append(tuned(trainer, scorer(0.1, 0.2)[0]).weights)
    assert_equal(*found)


def test_stop_ends_it_within_a_step(trainer):
    answers = iter([False, True])
    with pytest.raises(TrainingStopped):
        tuned(trainer, scorer(0.1)[0], stop=lambda: next(answers))


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dice", "start", "kept"),
    [
        ((0.3, 0.2), None, 0),
        ((0.2, 0.3), None, 1),
        ((0.3, 0.3), None, 0),
        ((None, None), None, 1),
        ((0.2, 0.3), (0.5,), "start"),
        ((0.2, 0.6), (0.5,), 1),
        ((None, None), (None,), 1),
    ],
)
def test_the_best_state_is_kept_and_without_scores_the_last(trainer, weights, dice, start, kept):
    score, asked = scorer(*dice)
    given = {} if start is None else {"start": (weights, *start)}
    result = tuned(trainer, score, **given)
    expected = weights if kept == "start" else asked[kept]
    assert_equal(dict(result.weights), expected)
    assert result.dice == (start[0] if kept == "start" else dice[kept])
    assert differ(asked[0], asked[1])


def test_nothing_is_written(trainer, tmp_path):
    tuned(trainer, scorer(0.1, 0.2)[0])
    assert not (tmp_path / "state").exists()
