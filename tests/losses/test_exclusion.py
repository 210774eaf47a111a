"""Exclusion losses: vector A, mixed masks by hand, and the invariants of METHODS 3.2."""

import math

import pytest
import torch

from fedpartial.losses.combination import LOSS_NAMES, LossOptions, exclusion_losses
from fedpartial.losses.exclusion import (
    Exclusion,
    exclude,
    exclusion_ce,
    exclusion_dice,
    exclusion_focal,
    exclusion_lovasz,
    exclusion_topk,
)

EPS = 1e-5
OPTIONS = LossOptions(fraction=0.3)
LIVER, TUMOR, SPLEEN, KIDNEY = 1, 2, 3, 4
GROUPS = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]).bool()
OF_CLASS = {
    "dice": exclusion_dice,
    "ce": exclusion_ce,
    "focal": exclusion_focal,
    "topk": lambda p, e: exclusion_topk(p, e, fraction=0.3),
    "lovasz": lambda p, e: exclusion_lovasz(Exclusion(p=[p], e=[e]))[0],
}


def mask_of(*cases):
    labelled = torch.zeros(len(cases), 5, dtype=torch.bool)
    for row, classes in zip(labelled, cases, strict=True):
        row[list(classes)] = True
    return labelled


def random_batch(*cases, seed=0, grid=(3, 2, 2)):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(cases), 5, *grid, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 5, (len(cases), *grid), generator=generator), mask_of(*cases)


def losses(logits, labels, labelled, **options):
    return exclusion_losses(logits, labels, labelled, GROUPS, LOSS_NAMES, OPTIONS, **options)


# --- numbers ------------------------------------------------------------------------------------------


def test_vector_a(vector_a):
    exclusion = exclude(vector_a.student, vector_a.labels, vector_a.labelled, vector_a.groups)
    pairs = list(zip(exclusion.p, exclusion.e, strict=True))
    assert len(pairs) == len(vector_a.expected["exclusion_classes"])
    for name in ("exclusion_dice", "exclusion_ce_eps1"):
        loss = {"exclusion_dice": exclusion_dice, "exclusion_ce_eps1": exclusion_ce}[name]
        found = [loss(p, e).item() for p, e in pairs]
        assert found == pytest.approx(vector_a.expected[f"{name}_per_class"], rel=1e-12)
        assert sum(found) / 3 == pytest.approx(vector_a.expected[name], rel=1e-12)


def test_three_voxels_by_hand():
    p, e = torch.tensor([[0.5, 0.25, 0.125]], dtype=torch.float64), torch.tensor([[True, True, False]])
    assert exclusion_dice(p, e).item() == pytest.approx(2 * 0.75 / (2 + 0.875 + EPS), rel=1e-12)
    assert exclusion_ce(p, e).item() == pytest.approx((math.log(1.5) + math.log(1.25)) / 2, rel=1e-12)
    focal = (0.5**2 * math.log(1.5) + 0.25**2 * math.log(1.25)) / 2
    assert exclusion_focal(p, e).item() == pytest.approx(focal, rel=1e-12)
    assert exclusion_topk(p, e, fraction=0.1).item() == pytest.approx(math.log(1.5), rel=1e-12)
    # errors 3/4 and 1/2 of e, 1/8 of the rest: Jaccard grows by 1/2, 1/2, 0
    assert OF_CLASS["lovasz"](p, e).item() == pytest.approx(1 - 0.75 / 2 - 0.5 / 2, rel=1e-12)


# --- what excludes what -------------------------------------------------------------------------------


def penalised_at(labels, labelled, **options):
    """One entry for each penalised class of one case: the voxels at which it is excluded."""
    logits = torch.zeros(1, 5, len(labels))
    exclusion = exclude(logits, torch.tensor([labels]), mask_of(labelled), GROUPS, **options)
    return [e.flatten().nonzero().flatten().tolist() for e in exclusion.e]


def test_an_organ_excludes_background_and_other_organs_but_not_its_own_lesion():
    """Penalised: background, tumour, spleen, kidney."""
    assert penalised_at([LIVER, 0, SPLEEN], {LIVER}) == [[0], [], [0], [0]]


def test_a_lesion_excludes_what_its_organ_does():
    """Penalised: background, spleen, kidney."""
    assert penalised_at([LIVER, TUMOR, 0], {LIVER, TUMOR}) == [[0, 1], [0, 1], [0, 1]]


def test_a_label_that_the_case_does_not_annotate_excludes_nothing():
    assert penalised_at([SPLEEN, KIDNEY, 99], {LIVER}) == [[], [], [], []]


def test_all_penalises_annotated_classes_outside_of_their_mask():
    """Penalised: background, liver, tumour, spleen, kidney; liver and tumour are one group but two masks."""
    found = penalised_at([LIVER, TUMOR, 0], {LIVER, TUMOR}, penalised="all")
    assert found == [[0, 1], [1, 2], [0, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize("penalised", ["unlabelled", "all"])
def test_a_fully_annotated_case_has_no_exclusion_loss(penalised):
    batch = random_batch({1, 2, 3, 4}, {1, 2, 3, 4})
    logits = batch[0].requires_grad_()
    found = losses(*batch, penalised=penalised)
    assert [value.item() for value in found.values()] == [0] * len(LOSS_NAMES)
    sum(found.values()).backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_mixed_masks_take_each_class_from_the_cases_that_penalise_it(name):
    logits, labels, labelled = random_batch({LIVER}, {SPLEEN}, {1, 2, 3, 4})
    p = logits.flatten(2).softmax(1)
    liver, spleen = (labels[0] == LIVER).flatten(), (labels[1] == SPLEEN).flatten()
    none = torch.zeros_like(liver)
    expected = [
        OF_CLASS[name](p[:2, 0], torch.stack((liver, spleen))),
        OF_CLASS[name](p[1:2, LIVER], spleen[None]),
        OF_CLASS[name](p[:2, TUMOR], torch.stack((none, spleen))),
        OF_CLASS[name](p[:1, SPLEEN], liver[None]),
        OF_CLASS[name](p[:2, KIDNEY], torch.stack((liver, spleen))),
    ]
    assert liver.any()
    assert spleen.any()
    found = losses(logits, labels, labelled)[name]
    assert found.item() == pytest.approx(sum(x.item() for x in expected) / 5, rel=1e-12)


def test_the_order_of_the_cases_does_not_matter():
    logits, labels, labelled = random_batch({LIVER}, {SPLEEN, KIDNEY})
    there, turned = losses(logits, labels, labelled), losses(logits.flip(0), labels.flip(0), labelled.flip(0))
    assert [turned[name].item() for name in LOSS_NAMES] == pytest.approx([x.item() for x in there.values()], rel=1e-12)


# --- invariants of 3.2 --------------------------------------------------------------------------------


def random_class(seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(2, 10, generator=generator, dtype=torch.float64)
    e = torch.rand(2, 10, generator=generator) < 0.2 + 0.1 * (seed % 6)
    e[0, 0] = True
    return p, e, generator


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_no_loss_falls_when_an_excluded_probability_rises(name):
    for seed in range(20):
        p, e, generator = random_class(seed)
        before = OF_CLASS[name](p, e)
        risen = torch.where(e, p + (1 - p) * torch.rand(p.shape, generator=generator, dtype=p.dtype), p)
        assert OF_CLASS[name](risen, e) >= before - 1e-12
        slopes = torch.autograd.functional.jacobian(lambda q: OF_CLASS[name](q, e), p)  # noqa: B023
        assert (slopes[e] >= 0).all()
        assert slopes[e].any()


@pytest.mark.parametrize("name", ["ce", "focal", "topk"])
def test_outside_of_e_there_is_no_gradient(name):
    for seed in range(5):
        p, e, _ = random_class(seed)
        p.requires_grad_()
        OF_CLASS[name](p, e).backward()
        assert not p.grad[~e].any()


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_outside_of_e_the_overlap_losses_fall_as_the_union_widens(name):
    for seed in range(5):
        p, e, _ = random_class(seed)
        p.requires_grad_()
        OF_CLASS[name](p, e).backward()
        assert (p.grad[~e] <= 0).all()
        assert p.grad[~e].any()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_where_nothing_is_excluded_loss_and_gradient_are_zero(name):
    p, e, _ = random_class(0)
    p.requires_grad_()
    loss = OF_CLASS[name](p, torch.zeros_like(e))
    loss.backward()
    assert loss.item() == 0
    assert p.grad is not None
    assert not p.grad.any()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_probability_zero_costs_nothing_and_one_costs_most(name):
    _, e, _ = random_class(1)
    most = {"dice": 1.0, "lovasz": 1.0}.get(name, math.log(2))
    none, full = torch.zeros(e.shape, dtype=torch.float64), e.double()
    assert OF_CLASS[name](none, e).item() == pytest.approx(0, abs=1e-12)
    assert OF_CLASS[name](full, e).item() == pytest.approx(most, abs=1e-5)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_every_loss_is_bounded_however_wrong_the_logits_are(name):
    most = {"dice": 1.0, "lovasz": 1.0}.get(name, math.log(2))
    for seed in range(5):
        logits, labels, labelled = random_batch({LIVER}, {SPLEEN}, seed=seed)
        assert 0 <= losses(1e4 * logits, labels, labelled)[name].item() <= most + 1e-12


@pytest.mark.parametrize("penalised", ["unlabelled", "all"])
def test_gradcheck(penalised):
    logits, labels, labelled = random_batch({LIVER}, {SPLEEN, KIDNEY}, grid=(2, 2, 1))
    labels[:, 0, 0], labels[:, 1, 0] = LIVER, SPLEEN
    assert torch.autograd.gradcheck(
        lambda z: tuple(losses(z, labels, labelled, penalised=penalised).values()), logits.requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_extreme_logits_stay_finite(dtype, gamma):
    logits, labels, labelled = random_batch({LIVER}, {SPLEEN})
    logits = (6e4 * logits.sign()).to(dtype).requires_grad_()
    options = LossOptions(gamma=gamma)
    total = sum(exclusion_losses(logits, labels, labelled, GROUPS, LOSS_NAMES, options).values())
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert logits.grad.isfinite().all()


def test_the_inputs_are_left_alone():
    batch = (*random_batch({LIVER}, {SPLEEN}), GROUPS.clone())
    before = [tensor.clone() for tensor in batch]
    exclusion_losses(*batch, LOSS_NAMES, OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))
