"""Dice and cross entropy of a two-channel head: by hand, against MONAI, and for cases that do not count."""

from __future__ import annotations

import pytest
import torch

from fedpartial.losses.head_dice import head_cross_entropy, head_dice

LOSSES = pytest.mark.parametrize("loss", [head_dice, head_cross_entropy])
ALL = torch.ones(3, dtype=torch.bool)


@pytest.fixture
def batch():
    """Three cases, the last without foreground."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 3, 2, dtype=torch.float64, generator=generator)
    target = torch.rand(3, 4, 3, 2, generator=generator) > 0.6
    target[2] = False
    return logits, target


def test_two_voxels_by_hand():
    """p(foreground) is 3/4 and 1/2, the first voxel is foreground."""
    logits = torch.tensor([[[[[0.0]], [[0.0]]], [[[3.0]], [[1.0]]]]], dtype=torch.float64).log().nan_to_num(neginf=0.0)
    target = torch.tensor([[[[True]], [[False]]]])
    foreground, background = 2 * 0.75 / (1.25 + 1), 2 * 0.5 / (0.75 + 1)
    assert head_dice(logits, target, ALL[:1]).item() == pytest.approx(1 - (foreground + background) / 2, abs=1e-5)
    expected = -(torch.tensor(0.75).log() + torch.tensor(0.5).log()).item() / 2
    assert head_cross_entropy(logits, target, ALL[:1]).item() == pytest.approx(expected, rel=1e-6)


def test_dice_is_monais(batch):
    from monai.losses.dice import DiceLoss

    logits, target = batch
    theirs = DiceLoss(softmax=True, to_onehot_y=True)(logits, target[:, None].double())
    assert head_dice(logits, target, ALL).item() == pytest.approx(theirs.item(), rel=1e-12)


@LOSSES
def test_only_counted_cases_count(loss, batch):
    logits, target = batch
    logits.requires_grad_()
    some = torch.tensor([True, False, True])
    found = loss(logits, target, some)
    torch.testing.assert_close(found, loss(logits[some], target[some], ALL[:2]), rtol=1e-12, atol=0)
    found.backward()
    assert [bool(case.any()) for case in logits.grad] == [True, False, True]


@LOSSES
def test_without_a_counted_case_the_loss_is_nothing_with_a_gradient_of_nothing(loss, batch):
    logits, target = batch
    found = loss(logits.requires_grad_(), target, ~ALL)
    found.backward()
    assert found.item() == 0
    assert not logits.grad.any()


@LOSSES
def test_the_gradient_is_the_derivative(loss, batch):
    logits, target = batch
    counted = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda z: loss(z, target, counted), logits.requires_grad_())


@LOSSES
def test_half_precision_and_extreme_logits_stay_finite(loss, batch):
    logits, target = batch
    logits = (1e4 * logits).to(torch.bfloat16).requires_grad_()
    found = loss(logits, target, ALL)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert torch.isfinite(logits.grad).all()


def test_a_certain_and_right_head_has_no_loss(batch):
    _, target = batch
    logits = 50.0 * torch.stack([~target, target], dim=1).double()
    assert head_dice(logits, target, ALL).item() == pytest.approx(0, abs=1e-12)
    assert head_cross_entropy(logits, target, ALL).item() == pytest.approx(0, abs=1e-12)
