"""Learning rates that fall with the site's own loss, or by poly, and the phases that they belong to."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from test_local_trainer import assert_equal, differ, go_on

from federation import TINY
from fedpartial.methods.fedavg import FedAvg
from fedpartial.presets import OptimizerConfig, Plateau
from fedpartial.training.checkpoint import adopt_states, load_state_before, save_state
from fedpartial.training.schedule import PlateauState, Schedule

STEPS = 5
ADAM_LIKE = {"lr": 0.1, "weight_decay": 0.0, "clip_norm": None}
POLY = OptimizerConfig(schedule="poly", min_lr=1e-3, **ADAM_LIKE)
COSINE = OptimizerConfig(schedule="cosine", min_lr=1e-3, **ADAM_LIKE)
ALWAYS = Plateau(steps=1, drop=1e6, factor=0.5)
"""After the first round no loss falls far enough: every further round halves the rate."""
HALVING = replace(TINY, optimizer=replace(TINY.optimizer, schedule="plateau", plateau=ALWAYS, min_lr=1e-6))


def rates_after(losses: list[float], config: OptimizerConfig) -> list[float]:
    """The rate after every round; the state goes through its plain values, as in a site's file."""
    schedule, rates, state = Schedule(num_rounds=len(losses), local_steps=STEPS), [], PlateauState.from_dict(None)
    for loss in losses:
        state = PlateauState.from_dict(state.after(loss, STEPS, config.plateau).to_dict())
        rates.append(schedule.learning_rate(config, 0, state.factor))
    return rates


def torch_rates(losses: list[float], config: OptimizerConfig) -> list[float]:
    """The same by PyTorch, which counts rounds: lower when more than ``patience`` of them were bad."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    patience = -(-config.plateau.steps // STEPS) - 1
    options = {"threshold": config.plateau.drop, "threshold_mode": "abs", "min_lr": config.min_lr, "eps": 0.0}
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min", factor=config.plateau.factor, patience=patience, **options
    )
    rates = []
    for loss in losses:
        plateau.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [1, STEPS, 2 * STEPS, 12])
def test_the_rate_is_that_of_pytorchs_scheduler(seed, steps):
    """12 steps are three rounds of five: the rate falls when at least so many steps are over."""
    generator = torch.Generator().manual_seed(seed)
    fall = torch.linspace(1, 0, 40, dtype=torch.float64)
    losses = (fall + 0.2 * torch.randn(40, generator=generator, dtype=torch.float64)).tolist()
    plateau = Plateau(steps=steps, drop=0.05, factor=0.8)
    config = OptimizerConfig(schedule="plateau", plateau=plateau, min_lr=0.02, **ADAM_LIKE)
    found = rates_after(losses, config)
    assert found == pytest.approx(torch_rates(losses, config), rel=1e-12)
    assert len(set(found)) >= 3


def test_the_rate_ends_at_the_lowest_one():
    config = OptimizerConfig(schedule="plateau", plateau=ALWAYS, min_lr=0.02, **ADAM_LIKE)
    assert rates_after([1.0] * 5, config) == [0.1, 0.05, 0.025, 0.02, 0.02]


def test_a_fall_by_the_drop_itself_does_not_count():
    plateau = Plateau(steps=STEPS, drop=0.25, factor=0.5)
    first = PlateauState().after(1.0, STEPS, plateau)
    assert first == PlateauState(best=1.0)
    assert first.after(0.75, STEPS, plateau).factor == 0.5
    assert first.after(0.7, STEPS, plateau) == PlateauState(best=0.7)


# --- in the trainer -----------------------------------------------------------------------------------


def trained_at(make_trainer, monkeypatch, **options) -> tuple[object, list[float]]:
    """A trainer and the list to which every step of it adds its learning rate."""
    rates: list[float] = []
    trainer = make_trainer(preset=HALVING, method=FedAvg(), **options)
    step = trainer._step

    def noted(batch, context, teacher, optimizer, *rest):
        rates.append(optimizer.lr)
        return step(batch, context, teacher, optimizer, *rest)

    monkeypatch.setattr(trainer, "_step", noted)
    return trainer, rates


def test_the_losses_of_earlier_rounds_reach_a_new_process(make_trainer, weights, monkeypatch):
    """The first round sets the mark, so its own rate and the second's are the preset's."""
    lr, found = HALVING.optimizer.lr, []
    for number in (0, 1, 2):
        trainer, rates = trained_at(make_trainer, monkeypatch)
        trainer.run_round(weights, number, go_on)
        found.append(rates)
    assert found == [[lr] * 2, [lr] * 2, [lr / 2] * 2]


def test_a_round_that_is_asked_for_again_has_the_same_rate(make_trainer, weights, monkeypatch):
    trainer, rates = trained_at(make_trainer, monkeypatch)
    for number in (0, 1):
        trainer.run_round(weights, number, go_on)
    once = trainer.run_round(weights, 2, go_on)
    again, other_rates = trained_at(make_trainer, monkeypatch)
    twice = again.run_round(weights, 2, go_on)
    assert rates[4:] == other_rates == [HALVING.optimizer.lr / 2] * 2
    assert_equal(once.update, twice.update)


def test_a_continued_run_takes_the_plateau_over(make_trainer, weights, monkeypatch, tmp_path):
    trainer, _ = trained_at(make_trainer, monkeypatch, state_dir=tmp_path / "first" / "state")
    for number in (0, 1):
        trainer.run_round(weights, number, go_on)
    expected = trainer.run_round(weights, 2, go_on).update
    (tmp_path / "first" / "state" / "after_round_00002.safetensors").unlink()
    (tmp_path / "second").mkdir()
    assert adopt_states(tmp_path / "second" / "state", [tmp_path / "first" / "state"])
    continued, rates = trained_at(make_trainer, monkeypatch, state_dir=tmp_path / "second" / "state")
    assert_equal(continued.run_round(weights, 2, go_on).update, expected)
    assert rates == [HALVING.optimizer.lr / 2] * 2
    shutil.rmtree(tmp_path / "second" / "state")
    assert differ(continued.run_round(weights, 2, go_on).update, expected), "without it the site starts anew"


def test_a_state_of_an_earlier_version_has_no_plateau(make_trainer, weights, tmp_path):
    folder, updates = tmp_path / "state", []
    make_trainer(method=FedAvg()).run_round(weights, 0, go_on)
    for forget in (False, True):
        state = load_state_before(folder, 1)
        if forget:
            assert state.values.pop("plateau") == PlateauState().to_dict(), "cosine remembers nothing"
            save_state(folder, 0, state)
        updates.append(make_trainer(method=FedAvg()).run_round(weights, 1, go_on).update)
    assert_equal(*updates)


# --- phases -------------------------------------------------------------------------------------------


def rates_of(schedule: Schedule, optimizer: OptimizerConfig) -> list[float]:
    return [schedule.learning_rate(optimizer, step) for step in range(schedule.total_steps)]


@pytest.mark.parametrize("optimizer", [POLY, COSINE], ids=["poly", "cosine"])
def test_each_phase_has_a_fall_of_its_own(optimizer):
    whole = Schedule(num_rounds=7, local_steps=STEPS, pretrain_rounds=3)
    phases = [Schedule(num_rounds=rounds, local_steps=STEPS) for rounds in (3, 4)]
    assert rates_of(whole, optimizer) == [rate for phase in phases for rate in rates_of(phase, optimizer)]
    assert rates_of(whole, optimizer)[3 * STEPS] == optimizer.lr


@pytest.mark.parametrize("pretrain_rounds", [0, 3])
def test_poly_falls_to_its_end_and_never_below_the_lowest_rate(pretrain_rounds):
    schedule = Schedule(num_rounds=4, local_steps=STEPS, pretrain_rounds=pretrain_rounds)
    rates = rates_of(schedule, POLY)
    last = rates[pretrain_rounds * STEPS :]
    assert last == sorted(last, reverse=True)
    total = len(last)
    assert last[1] == pytest.approx(POLY.lr * (1 - 1 / total) ** 0.9)
    assert min(rates) >= POLY.min_lr
    late = [schedule.learning_rate(POLY, schedule.total_steps + step) for step in range(3)]
    assert late == [POLY.min_lr] * 3


@pytest.mark.parametrize(("rounds", "anew"), [(0, []), (1, [1]), (3, [3])])
def test_the_optimiser_begins_anew_once_after_pretraining(rounds, anew):
    schedule = Schedule(num_rounds=5, local_steps=1, pretrain_rounds=rounds)
    assert [number for number in range(1, 5) if schedule.starts_anew(number, number - 1)] == anew


def test_a_site_that_misses_the_first_round_after_pretraining_begins_anew_in_the_next():
    schedule = Schedule(num_rounds=6, local_steps=1, pretrain_rounds=3)
    assert schedule.starts_anew(4, left_by=2)
    assert not schedule.starts_anew(5, left_by=4)
    assert not schedule.starts_anew(2, left_by=0)


def test_the_plateau_of_a_pool_counts_the_steps_of_one_site():
    """Else the upper bound's rate would fall as many times sooner as it has sites."""
    plateau = Plateau(steps=4, drop=1e-3, factor=0.5)
    alone = Schedule(num_rounds=4, local_steps=2)
    for schedule in (alone, alone.pooled(5)):
        states = [PlateauState()]
        for _ in range(4):
            states.append(schedule.after_round(states[-1], 1.0, plateau))
        assert [state.factor for state in states] == [1.0, 1.0, 1.0, 0.5, 0.5]
