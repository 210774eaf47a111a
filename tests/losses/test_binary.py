"""Binary cross entropy and Dice of every annotated class: by hand, targets of organs with lesions, pairs that count."""

from __future__ import annotations

import math

import pytest
import torch

from fedpartial.labels import LabelSpace, Organ
from fedpartial.losses.binary import binary_bce, binary_dice, binary_targets
from fedpartial.presets import ABDOMEN

GROUPS = torch.from_numpy(ABDOMEN.group_matrix())
LOSSES = pytest.mark.parametrize("loss", [binary_bce, binary_dice])
ONE = torch.ones(1, 1, dtype=torch.bool)


def volume(*values: float) -> torch.Tensor:
    """One class of one sample in as many voxels: (1, 1, V, 1, 1), float64."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1, 1, 1)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, generator=generator)
    target = torch.rand(2, 3, 3, 2, 2, generator=generator) > 0.6
    return logits, target, torch.tensor([[True, False, True], [False, True, True]])


def test_two_voxels_by_hand():
    """p is 3/4 and 1/2, the first voxel is foreground."""
    logits, target = volume(0.75, 0.5).logit(), volume(1, 0) > 0
    assert binary_dice(logits, target, ONE).item() == pytest.approx(1 - 2 * 0.75 / (1.25 + 1 + 1), rel=1e-12)
    assert binary_bce(logits, target, ONE).item() == pytest.approx(-math.log(0.75 * 0.5) / 2, rel=1e-12)


def test_the_dice_of_a_class_without_a_voxel_is_one_and_pulls_nowhere():
    logits = volume(2, -1).requires_grad_()
    loss = binary_dice(logits, volume(0, 0) > 0, ONE)
    loss.backward()
    assert loss.item() == 1
    assert not logits.grad.any()


@LOSSES
def test_it_is_the_mean_over_the_annotated_pairs(loss, batch):
    logits, target, annotated = batch
    pairs = annotated.nonzero().tolist()
    alone = [loss(logits[n : n + 1, k : k + 1], target[n : n + 1, k : k + 1], ONE) for n, k in pairs]
    assert len(alone) == 4
    assert loss(logits, target, annotated).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-12)


@LOSSES
def test_a_class_that_is_not_annotated_has_no_gradient(loss, batch):
    logits, target, annotated = batch
    loss(logits.requires_grad_(), target, annotated).backward()
    assert torch.equal(logits.grad.flatten(2).any(-1), annotated)


@LOSSES
def test_the_gradient_is_the_derivative(loss, batch):
    logits, target, annotated = batch
    assert torch.autograd.gradcheck(lambda z: loss(z, target, annotated), logits.requires_grad_())


@LOSSES
def test_half_precision_and_extreme_logits_stay_finite(loss, batch):
    logits, target, annotated = batch
    logits = (1e4 * logits).to(torch.bfloat16).requires_grad_()
    found = loss(logits, target, annotated)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert torch.isfinite(logits.grad).all()


# --- targets ------------------------------------------------------------------------------------------


def test_an_organs_target_includes_its_lesions_and_a_lesions_is_its_own():
    labels = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)
    channels = [ABDOMEN.index(name) for name in ("liver", "liver_tumor", "spleen", "kidney")]
    found = binary_targets(labels, channels, GROUPS)
    inside = [[ABDOMEN.channels[c] for c in labels[voxels].tolist()] for voxels in found.unbind(dim=1)]
    assert inside == [["liver", "liver_tumor"], ["liver_tumor"], ["spleen"], ["kidney", "kidney_tumor"]]
    assert (found.shape, found.dtype) == ((1, 4, 2, 2, 2), torch.bool)


def test_a_merged_lesion_is_its_organ_already_and_sides_are_apart():
    sided = LabelSpace(organs=(Organ(name="kidney", lesions=("kidney_tumor",), sides=True),), merge_lesions=True)
    found = binary_targets(torch.tensor([[[[0, 1, 2]]]]), [1, 2], torch.from_numpy(sided.group_matrix()))
    assert found.flatten(2).tolist() == [[[False, True, False], [False, False, True]]]
