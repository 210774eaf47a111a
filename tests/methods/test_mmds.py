"""MMDS's local objective: annotated classes by themselves, whatever stands beside them."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.losses.binary import binary_bce, binary_dice
from fedpartial.methods.base import Method, RoundContext
from fedpartial.methods.mmds import Mmds
from fedpartial.presets import GREAT_VESSELS
from fedpartial.training.reported import LOSS_PARTS
from small_universal import CLASSES, image, small

SPACE = GREAT_VESSELS
GROUPS = torch.from_numpy(SPACE.group_matrix())
LIVER, SPLEEN = (torch.from_numpy(SPACE.labelled_mask(names)) for names in (("liver", "liver_tumor"), ("spleen",)))
THREE = ("liver", "liver_tumor", "spleen")


def context(*classes: str) -> RoundContext:
    return RoundContext(
        round_number=0, num_rounds=1, groups=GROUPS, head_channels=tuple(SPACE.index(name) for name in classes)
    )


def loss(output: Tensor, labels: Tensor, labelled: Tensor, *classes: str, method: Mmds | None = None):
    return (method or Mmds()).loss([output], None, labels, labelled, context(*classes))


@pytest.fixture
def batch():
    """Logits of liver, its tumour and spleen; labels of all three; a liver case and a spleen case."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return output, torch.randint(0, 4, (2, 4, 4, 4), generator=generator), torch.stack([LIVER, SPLEEN])


def test_it_is_cross_entropy_and_dice_of_the_annotated_pairs(batch):
    output, labels, labelled = batch
    terms = loss(output, labels, labelled, *THREE)
    organ = (labels == 1) | (labels == 2)
    target = torch.stack([organ, labels == 2, labels == 3], dim=1)
    arguments = output, target, torch.tensor([[True, True, False], [False, False, True]])
    bce, dice = binary_bce(*arguments), binary_dice(*arguments)
    assert {name: value.item() for name, value in terms.parts.items()} == {"bce": bce.item(), "dice": dice.item()}
    assert terms.total.item() == pytest.approx((bce + dice).item(), rel=1e-12)
    weighted = loss(output, labels, labelled, *THREE, method=Mmds(bce_weight=2.0, dice_weight=0.5)).total
    assert weighted.item() == pytest.approx((2 * bce + dice / 2).item(), rel=1e-12)


def test_the_server_knows_the_names_of_its_parts(batch):
    output, labels, labelled = batch
    assert set(loss(output, labels, labelled, *THREE).parts) <= set(LOSS_PARTS)


def test_what_a_case_does_not_annotate_has_exactly_no_gradient(batch):
    output, labels, labelled = batch
    loss(output, labels, labelled, *THREE).total.backward()
    reached = output.grad.flatten(2).any(-1)
    assert reached.tolist() == [[True, True, False], [False, False, True]]


def test_labels_of_other_classes_do_not_matter(batch):
    """In the spleen case everything but the spleen might be anything."""
    output, labels, labelled = batch
    other = labels.clone()
    other[1][labels[1] != SPACE.index("spleen")] = SPACE.index("aorta")
    assert torch.equal(loss(output, labels, labelled, *THREE).total, loss(output, other, labelled, *THREE).total)


def test_the_order_of_the_classes_does_not_matter(batch):
    output, labels, labelled = batch
    found = loss(output, labels, labelled, *THREE).total
    turned = loss(output.flip(1), labels, labelled, *reversed(THREE)).total
    assert turned.item() == pytest.approx(found.item(), rel=1e-12)
    wrong = loss(output, labels, labelled, *reversed(THREE)).total
    assert wrong.item() != pytest.approx(found.item(), rel=1e-3)


def test_a_class_that_no_case_annotates_changes_neither_loss_nor_gradients_of_a_network():
    """Bit for bit, because a network computes every class by itself (test_universal.py)."""
    labels = torch.randint(0, 4, (2, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    labelled = torch.stack([LIVER, LIVER | SPLEEN])
    found = []
    for classes in (THREE, CLASSES):
        network = small(*classes)
        total = loss(network(image()), labels, labelled, *(name for name in CLASSES if name in classes)).total
        total.backward()
        found.append((total.detach(), {name: p.grad for name, p in network.named_parameters()}))
    (few, few_gradients), (many, many_gradients) = found
    assert torch.equal(few, many)
    assert few_gradients["extractor.down.0.0.weight"].any()
    assert all(torch.equal(gradient, many_gradients[name]) for name, gradient in few_gradients.items())


def test_an_annotated_class_that_the_network_has_not_is_left_out(batch):
    output, labels, labelled = batch
    found = loss(output[:, 2:], labels, labelled, "spleen").total
    alone = loss(output[1:, 2:], labels[1:], labelled[1:], "spleen").total
    assert found.item() == pytest.approx(alone.item(), rel=1e-12)


def test_a_batch_without_any_pair_has_a_loss_of_zero_with_a_gradient_of_zero(batch):
    output, labels, labelled = batch
    terms = loss(output, labels, labelled, "kidney", "pancreas", "aorta")
    terms.total.backward()
    assert terms.total.item() == 0
    assert not output.grad.any()


def test_it_looks_at_no_global_model():
    assert not Mmds().needs_teacher(context("liver"))
    assert not Mmds().needs_reference()
    assert Mmds().needs_heads()
    assert list(inspect.signature(Mmds.loss).parameters) == list(inspect.signature(Method.loss).parameters)


@pytest.mark.parametrize("classes", [(), ("liver",)])
def test_another_number_of_outputs_is_one_clear_error(batch, classes):
    output, labels, labelled = batch
    with pytest.raises(ConfigError, match="one output for each class"):
        loss(output, labels, labelled, *classes)


def test_the_private_heads_of_segviz_are_refused(batch):
    _, labels, labelled = batch
    with pytest.raises(ConfigError, match="universal network"):
        loss(torch.zeros(2, 3, 2, 4, 4, 4), labels, labelled, *THREE)
