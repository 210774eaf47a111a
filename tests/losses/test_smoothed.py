"""The Dice of Fed-MENU: hand-computed values, and what it says where nothing is known."""

from __future__ import annotations

import math

import pytest
import torch

from fedpartial.losses.exclusion import exclude
from fedpartial.losses.marginal import merge
from fedpartial.losses.smoothed import (
    organ_against_rest,
    smoothed_exclusion,
    smoothed_marginal_dice,
    smoothed_overlap,
)

HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)
FIRST = torch.tensor([True, False])
GROUPS = torch.eye(3, dtype=torch.bool)


def test_an_overlap_by_hand():
    """(2 * 0.5 + 1) / (0.25 + 0.25 + 1 + 1)."""
    assert smoothed_overlap(HALF, FIRST).item() == pytest.approx(2 / 2.5)
    assert smoothed_overlap(FIRST.double(), FIRST).item() == 1


def test_the_marginal_dice_runs_over_the_cases_that_count_a_class():
    """Two cases of two voxels, equal logits of three channels; the first annotates class 1, its first voxel."""
    logits, labels = torch.zeros(2, 3, 2, 1, 1, dtype=torch.float64), torch.tensor([[1, 0], [0, 0]]).view(2, 2, 1, 1)
    labelled = torch.tensor([[False, True, False], [False, False, True]])
    third, two_thirds = 1 / 3, 2 / 3
    background = 1 - (2 * 3 * two_thirds + 1) / (4 * two_thirds**2 + 3 + 1)
    present = 1 - (2 * third + 1) / (2 * third**2 + 1 + 1)
    absent = 1 - 1 / (2 * third**2 + 1)
    found = smoothed_marginal_dice(merge(logits, labels, labelled))
    assert found.item() == pytest.approx((background + present + absent) / 3)


def test_the_exclusion_is_the_overlap_with_what_cannot_be():
    """Class 2 and background where the case shows class 1, in one voxel of two."""
    logits, labels = torch.zeros(1, 3, 2, 1, 1, dtype=torch.float64), torch.tensor([[1, 0]]).view(1, 2, 1, 1)
    found = exclude(logits, labels, torch.tensor([[False, True, False]]), GROUPS)
    value = smoothed_exclusion(found.p, found.e, logits)
    assert value.item() == pytest.approx((2 / 3 + 1) / (2 / 9 + 1 + 1))


def test_where_nothing_is_excluded_the_exclusion_is_zero_without_a_gradient():
    for labelled in ([False, True, False], [False, True, True]):
        logits = torch.zeros(1, 3, 2, 1, 1, requires_grad=True)
        found = exclude(logits, torch.zeros(1, 2, 1, 1, dtype=torch.long), torch.tensor([labelled]), GROUPS)
        value = smoothed_exclusion(found.p, found.e, logits)
        assert value.item() == 0
        if value.requires_grad:
            value.backward()
            assert not logits.grad.any()


def test_the_exclusion_never_falls_when_an_excluded_probability_rises():
    generator, checked = torch.Generator().manual_seed(0), 0
    for _ in range(50):
        p = torch.rand(6, generator=generator, dtype=torch.float64)
        e = torch.rand(6, generator=generator) < 0.5
        for voxel in e.nonzero().flatten().tolist():
            higher = p.clone()
            higher[voxel] += (1 - p[voxel]) * 0.5
            assert smoothed_overlap(higher, e) >= smoothed_overlap(p, e) - 1e-12
            checked += 1
    assert checked > 50


def test_an_organ_against_the_rest_by_hand():
    """Equal logits of one case of two voxels: log 2, and the same overlap for both channels."""
    logits = torch.zeros(1, 2, 2, 1, 1, dtype=torch.float64)
    organ = torch.tensor([True, False]).view(1, 2, 1, 1)
    assert organ_against_rest(logits, organ).item() == pytest.approx(math.log(2) + 1 - 2 / 2.5)


@pytest.mark.parametrize("organ", [[True, False, False], [False, False, False], [True, True, True]])
def test_gradients_are_right(organ):
    target = torch.tensor(organ).view(1, 3, 1, 1)
    logits = torch.randn(1, 2, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: organ_against_rest(x, target), logits.requires_grad_())
