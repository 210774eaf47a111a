"""FedAvg*: the standard loss over all channels, which takes what a case does not annotate for true background."""

from __future__ import annotations

import math

import pytest
import torch

from fedpartial.methods.base import RoundContext
from fedpartial.methods.fedavg import FedAvg
from fedpartial.presets import ABDOMEN

NAIVE = FedAvg(unlabelled="background")
GRID = (2, 2, 1)


def context(num_channels: int) -> RoundContext:
    return RoundContext(round_number=0, num_rounds=1, groups=torch.eye(num_channels, dtype=torch.bool))


def loss(method: FedAvg, logits, labels, labelled):
    return method.loss([logits], None, labels, labelled, context(logits.shape[1]))


@pytest.fixture
def hand():
    """Three channels (background, a, b); a is annotated, b is not although the label file shows it.

    Probabilities of (background, a, b) by voxel: (1/2, 1/4, 1/4), (1/4, 1/2, 1/4), (1/4, 1/4, 1/2) and thirds.
    """
    rows = [[2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1]]
    logits = torch.tensor(rows, dtype=torch.float64).log().reshape(1, 3, *GRID)
    labels = torch.tensor([0, 1, 2, 2]).reshape(1, *GRID)
    return logits, labels, torch.tensor([[False, True, False]])


def test_a_case_computed_by_hand(hand):
    """Targets are background, a, background, background: b counts as annotated and absent."""
    terms = loss(NAIVE, *hand).parts
    ce = -(math.log(1 / 2) + math.log(1 / 2) + math.log(1 / 4) + math.log(1 / 3)) / 4
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    size = 1 / 2 + 1 / 4 + 1 / 4 + 1 / 3  # of background; that of a is the same
    background = 1 - 2 * (1 / 2 + 1 / 4 + 1 / 3) / (size + 3)
    a = 1 - 2 * (1 / 2) / (size + 1)
    b = 1.0
    assert terms["dice"].item() == pytest.approx((background + a + b) / 3, rel=1e-4)


def test_the_marginal_loss_of_the_same_case_is_another(hand):
    """It takes b and background together, so a voxel of b is no fault of the network."""
    terms = loss(FedAvg(), *hand).parts
    ce = -(math.log(3 / 4) + math.log(1 / 2) + math.log(3 / 4) + math.log(2 / 3)) / 4
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)


def test_without_absent_classes_only_those_that_the_batch_shows_count(hand):
    terms = loss(FedAvg(unlabelled="background", absent_class="skip"), *hand).parts
    size = 1 / 2 + 1 / 4 + 1 / 4 + 1 / 3
    background = 1 - 2 * (1 / 2 + 1 / 4 + 1 / 3) / (size + 3)
    assert terms["dice"].item() == pytest.approx((background + 1 - 1 / (size + 1)) / 2, rel=1e-4)


@pytest.fixture
def random_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 3, 3, 2, dtype=torch.float64, generator=generator)
    return logits, torch.randint(0, 8, (2, 3, 3, 2), generator=generator)


def test_where_everything_is_labelled_it_is_the_marginal_loss(random_batch):
    logits, labels = random_batch
    everything = torch.from_numpy(ABDOMEN.labelled_mask(ABDOMEN.classes)).expand(2, -1)
    partial = torch.from_numpy(ABDOMEN.labelled_mask(["liver"])).expand(2, -1)
    assert torch.equal(loss(NAIVE, logits, labels, everything).total, loss(FedAvg(), logits, labels, everything).total)
    assert not torch.isclose(loss(NAIVE, logits, labels, partial).total, loss(FedAvg(), logits, labels, partial).total)


def test_the_gradient_is_that_of_the_loss(random_batch):
    logits, labels = random_batch
    labelled = torch.stack([torch.from_numpy(ABDOMEN.labelled_mask([name])) for name in ("liver", "spleen")])
    assert torch.autograd.gradcheck(lambda x: loss(NAIVE, x, labels, labelled).total, logits.requires_grad_())


def test_it_pushes_down_what_the_marginal_loss_leaves_alone(hand):
    """The contradiction between sites: this one's step lowers b where another site has outlined it."""
    logits, labels, labelled = hand
    for method, pushed in ((NAIVE, True), (FedAvg(), False)):
        x = logits.clone().requires_grad_()
        loss(method, x, labels, labelled).parts["ce"].backward()
        at_b = x.grad.reshape(3, 4)[:, 2]
        assert (at_b[2] > 0 > at_b[0]) == pushed


def test_neither_labels_nor_mask_are_changed(hand):
    logits, labels, labelled = hand
    before = labels.clone(), labelled.clone()
    loss(NAIVE, logits, labels, labelled)
    assert torch.equal(labels, before[0])
    assert torch.equal(labelled, before[1])
