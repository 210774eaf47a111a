"""SegViz's objective: every head learns its own class from the cases that annotate it, and from nothing else."""

from __future__ import annotations

import inspect

import pytest
import torch

from fedpartial.errors import ConfigError
from fedpartial.losses.head_dice import head_cross_entropy, head_dice
from fedpartial.methods.base import Method, RoundContext
from fedpartial.methods.segviz import SegViz
from fedpartial.presets import ABDOMEN

SPACE = ABDOMEN.merged
GROUPS = torch.from_numpy(SPACE.group_matrix())
LIVER, SPLEEN = (torch.from_numpy(SPACE.labelled_mask([name])) for name in ("liver", "spleen"))
BOTH = SegViz(ce_weight=0.5)


def context(*classes: str) -> RoundContext:
    channels = tuple(SPACE.index(name) for name in classes)
    return RoundContext(round_number=1, num_rounds=3, groups=GROUPS, head_channels=channels)


@pytest.fixture
def batch():
    """Logits of two heads, labels of both organs in both cases, and masks: a liver case and a spleen case."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 2, 2, 4, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4, 4), generator=generator)
    return output, labels, torch.stack([LIVER, SPLEEN])


def test_one_head_has_the_loss_of_its_class(batch):
    output, labels, _ = batch
    terms = BOTH.loss([output[:, 1:]], None, labels, torch.stack([SPLEEN, SPLEEN]), context("spleen"))
    arguments = output[:, 1], labels == SPACE.index("spleen"), torch.tensor([True, True])
    dice, ce = head_dice(*arguments), head_cross_entropy(*arguments)
    assert terms.total.item() == pytest.approx((dice + 0.5 * ce).item(), rel=1e-12)
    assert {name: value.item() for name, value in terms.parts.items()} == {"dice": dice.item(), "ce": ce.item()}


def test_without_options_it_is_dice_alone(batch):
    output, labels, labelled = batch
    terms = SegViz().loss([output], None, labels, labelled, context("liver", "spleen"))
    assert list(terms.parts) == ["dice"]
    assert torch.equal(terms.total, terms.parts["dice"])


def test_several_heads_have_the_mean_of_their_losses(batch):
    output, labels, labelled = batch
    found = BOTH.loss([output], None, labels, labelled, context("liver", "spleen")).total
    alone = [
        BOTH.loss([output[:, i : i + 1]], None, labels, labelled, context(name)).total
        for i, name in enumerate(("liver", "spleen"))
    ]
    assert found.item() == pytest.approx(sum(alone).item() / 2, rel=1e-12)


def test_the_order_of_the_heads_is_that_of_the_channels(batch):
    output, labels, labelled = batch
    found = BOTH.loss([output], None, labels, labelled, context("liver", "spleen")).total
    swapped = BOTH.loss([output.flip(1)], None, labels, labelled, context("spleen", "liver")).total
    assert swapped.item() == pytest.approx(found.item(), rel=1e-12)
    wrong = BOTH.loss([output], None, labels, labelled, context("spleen", "liver")).total
    assert wrong.item() != pytest.approx(found.item(), rel=1e-3)


def test_a_head_learns_from_the_cases_that_annotate_its_class_only(batch):
    output, labels, labelled = batch
    BOTH.loss([output], None, labels, labelled, context("liver", "spleen")).total.backward()
    reached = [[bool(head.any()) for head in case] for case in output.grad]
    assert reached == [[True, False], [False, True]]


def test_a_head_without_a_case_in_the_batch_has_no_part_in_the_mean(batch):
    output, labels, _ = batch
    labelled = torch.stack([LIVER, LIVER])
    found = BOTH.loss([output], None, labels, labelled, context("liver", "spleen")).total
    alone = BOTH.loss([output[:, :1]], None, labels, labelled, context("liver")).total
    assert found.item() == pytest.approx(alone.item(), rel=1e-12)


def test_a_batch_that_annotates_no_head_has_a_loss_of_zero_with_a_gradient(batch):
    output, labels, labelled = batch
    terms = SegViz().loss([output], None, labels, labelled, context("kidney", "pancreas"))
    terms.total.backward()
    assert terms.total.item() == 0
    assert not output.grad.any()


def test_it_looks_at_no_global_model():
    assert not SegViz().needs_teacher(context("liver"))
    assert not SegViz().needs_reference()
    assert list(inspect.signature(SegViz.loss).parameters) == list(inspect.signature(Method.loss).parameters)


@pytest.mark.parametrize("classes", [(), ("liver",)])
def test_another_number_of_heads_is_one_clear_error(batch, classes):
    output, labels, labelled = batch
    with pytest.raises(ConfigError, match="two channels for each private head"):
        SegViz().loss([output], None, labels, labelled, context(*classes))


def test_the_logits_of_a_joint_head_are_refused(batch):
    _, labels, labelled = batch
    with pytest.raises(ConfigError, match="joint head"):
        SegViz().loss([torch.zeros(2, 5, 4, 4, 4)], None, labels, labelled, context())
