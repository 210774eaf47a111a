"""Ramps and learning rates against numbers computed outside of this package (vectors.json)."""

import json
import math
from pathlib import Path

import pytest
import torch

from fedpartial.methods.base import RoundContext, linear_ramp
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.presets import ABDOMEN_PAPER
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.training.schedule import Schedule

EXPECTED = json.loads((Path(__file__).parents[1] / "vectors.json").read_text(encoding="utf-8"))["schedules"]


def table(name: str) -> list[tuple[int, float]]:
    return [(int(at), value) for at, value in EXPECTED[name].items()]


def context(round_number: int, num_rounds: int) -> RoundContext:
    return RoundContext(round_number=round_number, num_rounds=num_rounds, groups=torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize(("round_number", "weight"), table("condist_weight_R120"))
def test_weight_of_the_distillation(round_number, weight):
    assert ConDistFL().weight(context(round_number, 120)) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(("step", "rate"), table("client_lr_Tmax120000"))
def test_learning_rate_of_the_sites(step, rate):
    schedule = Schedule(num_rounds=120, local_steps=1000)
    assert schedule.learning_rate(ABDOMEN_PAPER.optimizer, step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("round_number", "rate"), table("server_lr_Tmax120"))
def test_learning_rate_of_the_server(round_number, rate):
    assert ServerSGD().learning_rate(round_number, 120) == pytest.approx(rate, rel=1e-12)


def test_all_tables_are_used():
    assert set(EXPECTED) == {"condist_weight_R120", "client_lr_Tmax120000", "server_lr_Tmax120"}
    assert all(len(values) >= 3 for values in EXPECTED.values())


def test_one_round_takes_the_right_end():
    assert linear_ramp(0.01, 1.0, 0, 1) == 1.0
    assert ConDistFL().weight(context(0, 1)) == 1.0
    assert math.isfinite(ServerSGD().learning_rate(0, 1))


@pytest.mark.parametrize("num_rounds", [1, 2, 3, 7, 240])
def test_the_last_round_has_the_right_end(num_rounds):
    ends = [ConDistFL().weight(context(r, num_rounds)) for r in (0, num_rounds - 1)]
    assert ends == pytest.approx([0.01 if num_rounds > 1 else 1.0, 1.0], rel=1e-12)


def test_the_rate_does_not_rise_again_after_the_last_step():
    schedule = Schedule(num_rounds=2, local_steps=5)
    optimizer = ABDOMEN_PAPER.optimizer
    rates = [schedule.learning_rate(optimizer, step) for step in range(15)]
    assert rates == sorted(rates, reverse=True)
    assert rates[10:] == [optimizer.min_lr] * 5


def test_a_teacher_is_loaded_only_where_its_weight_is_not_zero():
    ramp = ConDistFL(weight_start=0.0, weight_end=1.0)
    assert [ramp.needs_teacher(context(r, 3)) for r in range(3)] == [False, True, True]
    assert not any(ConDistFL(weight_start=0.0, weight_end=0.0).needs_teacher(context(r, 3)) for r in range(3))
    assert not any(FedAvg().needs_teacher(context(r, 3)) for r in range(3))
