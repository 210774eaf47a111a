"""Sums by slab: the same for any slab, with the gradient of the whole, for heads of any resolution."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from fedpartial.losses import voxel_sums as module
from fedpartial.losses.conditional_distillation import conditional_distillation
from fedpartial.losses.deep_supervision import enlarged
from fedpartial.losses.marginal import marginal_dice, marginal_dice_ce, merge, voxel_cross_entropy
from fedpartial.losses.voxel_sums import voxel_sums

GROUPS = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool)
LABELLED = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)


def batch(shape=(6, 4, 8), channels=5, kind=torch.float64):
    """Logits and labels (4, ...); labels also of classes that a case does not annotate, and of none."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, channels, *shape, generator=generator, dtype=torch.float64)
    return logits.to(kind), torch.randint(-1, channels + 1, (4, *shape), generator=generator)


def gradient(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, of, retain_graph=True)[0]


@pytest.fixture(params=[1, 40, 10**6])
def slab(request, monkeypatch):
    monkeypatch.setitem(module.VOXELS, "cpu", request.param)


OPTIONS = [
    {},
    {"squared": True},
    {"absent_class": "skip"},
    {"absent_class": "smooth"},
    {"ce_on": "double_softmax_compat"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_dice_and_cross_entropy_are_those_of_the_whole_batch(slab, options):
    logits, labels = batch()
    logits.requires_grad_()
    terms, merged = marginal_dice_ce(logits, labels, LABELLED, **options), merge(logits, labels, LABELLED)
    ce = voxel_cross_entropy(merged, ce_on=options.get("ce_on", "merged_prob")).mean()
    dice = marginal_dice(merged, **{k: v for k, v in options.items() if k != "ce_on"})
    for found, expected in ((terms.dice, dice), (terms.ce, ce)):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient(found, logits), gradient(expected, logits))


@pytest.mark.parametrize("factors", [(2, 2, 2), (2, 4, 1), (6, 1, 8)])
def test_a_coarse_head_counts_as_if_enlarged(slab, factors):
    _, labels = batch()
    coarse = batch(tuple(n // f for n, f in zip((6, 4, 8), factors, strict=True)))[0].requires_grad_()
    found, expected = (marginal_dice_ce(z, labels, LABELLED) for z in (coarse, enlarged(coarse, labels)))
    for name in ("dice", "ce"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradient(ours, coarse), gradient(theirs, coarse))


@pytest.mark.parametrize("options", [{}, {"denominator": "squared"}, {"conditional": "upstream"}], ids=str)
def test_distillation_does_not_depend_on_the_slabs(monkeypatch, options):
    logits, labels = batch()
    teacher = batch(kind=torch.float32)[0].flip(0).double()
    logits.requires_grad_()
    found = []
    for voxels in (1, 10**6):
        monkeypatch.setitem(module.VOXELS, "cpu", voxels)
        found.append(conditional_distillation(logits, teacher, labels, LABELLED, GROUPS, **options))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(gradient(loss, logits) for loss in found))


def test_layout_subclass_and_half_precision_change_nothing_else():
    logits, labels = batch(kind=torch.bfloat16)
    expected = marginal_dice_ce(logits.float(), labels, LABELLED)
    for other in (logits.to(memory_format=torch.channels_last_3d), MetaTensor(logits)):
        found = marginal_dice_ce(other, labels, LABELLED)
        assert found.dice.dtype == found.ce.dtype == torch.float32
        torch.testing.assert_close(found.dice, expected.dice)
        torch.testing.assert_close(found.ce, expected.ce)


def test_no_tensor_of_the_batchs_size_but_the_gradient():
    """Everything else is a slab; a loss that copies its logits would show here."""
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and function is not torch.ops.aten.detach.default:
                largest.append((out.untyped_storage().nbytes(), str(function)))
            return out

    logits, labels = torch.randn(1, 5, 128, 32, 32, requires_grad=True), torch.zeros(1, 128, 32, 32).long()
    loss = marginal_dice_ce(logits, labels, LABELLED[:1])
    with Sizes():
        gradient(loss.dice + loss.ce, logits)
    of_batch = {name for size, name in largest if size >= logits.nbytes}
    views = {"aten.select.int", "aten.slice.Tensor", "aten.view.default"}
    assert of_batch <= views | {"aten.empty_like.default", "aten.copy_.default"}


def test_the_sums_are_float64_and_of_every_case():
    logits, labels = batch(kind=torch.float32)
    sums = voxel_sums(lambda n, z, y: torch.stack((z.sum(), (y == n).sum().to(z.dtype))), logits, labels)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums[:, 0], logits.double().flatten(1).sum(1), rtol=1e-5, atol=1e-4)
    assert sums[:, 1].tolist() == [(labels[n] == n).sum() for n in range(4)]
