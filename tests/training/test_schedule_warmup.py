"""Warm-up and cosine: linear from nothing to the preset's rate, then down to the lowest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedpartial.presets import MMDS_PAPER, OptimizerConfig
from fedpartial.training.schedule import Schedule, cosine

CONFIG = OptimizerConfig(
    kind="adamw", lr=0.1, weight_decay=0.0, schedule="warmup_cosine", warmup=0.2, min_lr=1e-3, clip_norm=None
)


def rates(steps: int, config: OptimizerConfig = CONFIG, **phases: int) -> list[float]:
    schedule = Schedule(num_rounds=phases.pop("rounds", 1), local_steps=steps, **phases)
    return [schedule.learning_rate(config, step) for step in range(schedule.total_steps)]


def test_it_rises_on_a_line_and_falls_on_a_cosine():
    found = rates(20)
    assert found[:5] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert found[4:] == [cosine(CONFIG, step, 16) for step in range(16)]
    assert found[12] == pytest.approx((0.1 + 1e-3) / 2)
    assert max(found) == found[4] == CONFIG.lr


def test_the_papers_fifty_of_a_thousand_epochs():
    found = rates(1000, MMDS_PAPER.optimizer)
    assert found.index(max(found)) == 50


def test_it_ends_at_the_lowest_rate():
    schedule = Schedule(num_rounds=1, local_steps=20)
    assert [schedule.learning_rate(CONFIG, step) for step in (20, 25)] == [CONFIG.min_lr] * 2


def test_without_a_warmup_it_is_the_cosine():
    plain = replace(CONFIG, warmup=0.0)
    assert rates(20, plain) == rates(20, replace(plain, schedule="cosine"))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_too_short_for_a_warmup_has_none(steps):
    assert rates(steps)[0] == CONFIG.lr


def test_a_warmup_of_everything_has_no_fall():
    assert rates(4, replace(CONFIG, warmup=1.0)) == pytest.approx([0, 0.025, 0.05, 0.075])


def test_each_phase_has_a_warmup_of_its_own():
    phases = rates(10, rounds=2, pretrain_rounds=1)
    assert phases == rates(10) * 2
