"""Soft cross entropy and soft Dice: the independent numbers, pairs that do not count, gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedpartial.losses.soft import soft_bce, soft_dice

LOSSES = pytest.mark.parametrize("loss", [soft_bce, soft_dice])
VECTORS = Path(__file__).parents[1] / "vectors.json"


@pytest.fixture
def batch():
    """Logits and soft targets of two samples and three classes, and the pairs that have a target."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, generator=generator)
    target = torch.rand(2, 3, 3, 2, 2, dtype=torch.float64, generator=generator)
    return logits, target, torch.tensor([[True, False, True], [False, True, True]])


@pytest.mark.parametrize(("name", "loss"), [("soft_bce", soft_bce), ("soft_dice", soft_dice)])
def test_the_independent_numbers(name, loss):
    expected = json.loads(VECTORS.read_text(encoding="utf-8"))["soft"]
    prediction, target = (
        torch.tensor(expected[key], dtype=torch.float64).reshape(1, 1, 2, 2, 1) for key in ("prediction", "target")
    )
    assert loss(prediction.logit(), target).item() == pytest.approx(expected[name], abs=1e-12)


@LOSSES
def test_it_is_the_mean_over_the_pairs_with_a_target(loss, batch):
    logits, target, has = batch
    alone = [loss(logits[n : n + 1, k : k + 1], target[n : n + 1, k : k + 1]) for n, k in has.nonzero().tolist()]
    assert len(alone) == 4
    assert loss(logits, target, has).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-12)


@LOSSES
def test_without_a_mask_every_pair_counts(loss, batch):
    logits, target, has = batch
    torch.testing.assert_close(loss(logits, target), loss(logits, target, torch.ones_like(has)), rtol=0, atol=0)


@LOSSES
def test_a_pair_without_a_target_has_no_gradient_whatever_stands_there(loss, batch):
    logits, target, has = batch
    found = []
    for rest in (0.0, 0.7, torch.nan):
        z = logits.clone().requires_grad_()
        value = loss(z, torch.where(has[:, :, None, None, None], target, rest), has)
        value.backward()
        found.append((value.detach(), z.grad))
    for value, gradient in found:
        assert torch.equal(value, found[0][0])
        assert torch.equal(gradient, found[0][1])
        assert torch.equal(gradient.flatten(2).any(-1), has)


@LOSSES
def test_no_pair_at_all_is_a_loss_of_nothing_with_a_gradient_of_nothing(loss, batch):
    logits, target, has = batch
    found = loss(logits.requires_grad_(), target, torch.zeros_like(has))
    found.backward()
    assert found.item() == 0
    assert not logits.grad.any()


@LOSSES
def test_the_gradient_is_the_derivative(loss, batch):
    logits, target, has = batch
    assert torch.autograd.gradcheck(lambda z: loss(z, target, has), logits.requires_grad_())


def test_cross_entropy_is_lowest_where_the_prediction_is_the_target(batch):
    """Its floor is the targets' own entropy, and the gradient there is 0."""
    _, target, has = batch
    logits = target.logit().requires_grad_()
    floor = soft_bce(logits, target, has)
    floor.backward()
    entropy = -(target * target.log() + (1 - target) * (1 - target).log()).flatten(2).mean(-1)[has].mean()
    assert floor.item() == pytest.approx(entropy.item(), rel=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_a_hard_target_that_is_met_has_no_loss(batch):
    logits, _, _ = batch
    target = (logits > 0).double()
    assert soft_bce(100 * logits.sign(), target).item() == pytest.approx(0, abs=1e-12)
    assert soft_dice(100 * logits.sign(), target).item() == pytest.approx(0, abs=1e-12)


@LOSSES
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_and_empty_maps_stay_finite(loss, scale):
    logits = (scale * torch.ones(1, 2, 2, 2, 1)).to(torch.bfloat16).requires_grad_()
    target = torch.stack([torch.zeros(1, 2, 2, 1), torch.ones(1, 2, 2, 1)], dim=1)
    found = loss(logits, target)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert torch.isfinite(logits.grad).all()
