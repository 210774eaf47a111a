"""Marginal Dice + cross entropy against METHODS 1.1, vector A, and a reference in slow Python loops."""

import math
from itertools import chain

import pytest
import torch

from fedpartial.losses.marginal import marginal_dice_ce, marginal_log_probabilities

EPS = 1e-5
ABSENT = ("constant", "skip", "smooth")


# --- the slow reference: plain Python floats, one voxel at a time -----------------------------------


def softmax(column):
    top = max(column)
    powers = [math.exp(z - top) for z in column]
    return [power / sum(powers) for power in powers]


def voxels(volume):
    """(N, C, *S) -> [case][voxel][channel]."""
    return volume.detach().double().flatten(2).transpose(1, 2).tolist()


def classes_of(labelled):
    """The labelled classes of every case, as sets."""
    return [{c for c, is_labelled in enumerate(row) if is_labelled} for row in labelled.tolist()]


def slow_merge(logits, labels, labelled):
    """Per case: a list over voxels of (merged probabilities by class, merged label)."""
    cases = []
    for case, targets, known in zip(voxels(logits), labels.flatten(1).tolist(), classes_of(labelled), strict=True):
        merged = []
        for column, target in zip(case, targets, strict=True):
            p = softmax(column)
            q = {0: sum(p[c] for c in range(len(p)) if c not in known)} | {c: p[c] for c in known}
            merged.append((q, target if target in known else 0))
        cases.append(merged)
    return cases


def slow_ce(logits, labels, labelled, *, softmax_again=False):
    losses = []
    for q, target in chain.from_iterable(slow_merge(logits, labels, labelled)):
        total = sum(math.exp(value) for value in q.values())
        losses.append(-math.log(math.exp(q[target]) / total if softmax_again else q[target]))
    return sum(losses) / len(losses)


def slow_dice(logits, labels, labelled, *, absent_class="constant", squared=False):
    cases, known = slow_merge(logits, labels, labelled), classes_of(labelled)
    losses = []
    for c in sorted({0}.union(*known)):
        annotating = [case for case, classes in zip(cases, known, strict=True) if c == 0 or c in classes]
        pairs = [(q[c], float(target == c)) for q, target in chain.from_iterable(annotating)]
        overlap, present = sum(q * y for q, y in pairs), sum(y for _, y in pairs)
        size = sum(q * q if squared else q for q, _ in pairs) + present
        if absent_class == "skip" and not present:
            continue
        smoothing = EPS if absent_class == "smooth" else 0.0
        losses.append(1 - (2 * overlap + smoothing) / (size + EPS))
    return sum(losses) / len(losses)


def plain_dice_plus_ce(logits, labels):
    """Dice and cross entropy of a fully labelled batch; knows nothing of merging."""
    num_channels = logits.shape[1]
    p = [softmax(column) for column in chain.from_iterable(voxels(logits))]
    y = labels.flatten().tolist()
    ce = -sum(math.log(p[v][y[v]]) for v in range(len(y))) / len(y)
    dice = 0.0
    for c in range(num_channels):
        hit = sum(p[v][c] for v in range(len(y)) if y[v] == c)
        size = sum(p[v][c] for v in range(len(y))) + sum(1 for v in y if v == c)
        dice += (1 - 2 * hit / (size + EPS)) / num_channels
    return dice, ce


# --- batches ------------------------------------------------------------------------------------------


def mask_of(*cases, num_channels):
    labelled = torch.zeros(len(cases), num_channels, dtype=torch.bool)
    for row, classes in zip(labelled, cases, strict=True):
        row[list(classes)] = True
    return labelled


def random_batch(*cases, num_channels=5, grid=(3, 2, 2), seed=0, without=(), scale=2.0):
    """Logits, labels in {0} and the labelled classes of each case less ``without``, and the mask."""
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(cases), num_channels, *grid, generator=rng, dtype=torch.float64)
    labels = torch.empty(len(cases), *grid, dtype=torch.int64)
    for volume, classes in zip(labels, cases, strict=True):
        values = torch.tensor([0, *(c for c in classes if c not in without)])
        volume.copy_(values[torch.randint(len(values), grid, generator=rng)])
    return logits, labels, mask_of(*cases, num_channels=num_channels)


def gradients(logits, labels, labelled, **options):
    """d dice / d logits and d ce / d logits."""
    logits = logits.detach().requires_grad_()
    terms = marginal_dice_ce(logits, labels, labelled, **options)
    return [torch.autograd.grad(term, logits, retain_graph=True)[0] for term in (terms.dice, terms.ce)]


MIXED = ({1, 2}, {3}, {1, 2, 3, 4})
BATCHES = {
    "one case": ({1, 2},),
    "one class": ({4},),
    "everything": ({1, 2, 3, 4},),
    "same mask twice": ({1, 3}, {1, 3}),
    "disjoint masks": ({1, 2}, {3, 4}),
    "mixed masks": MIXED,
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def cases(request):
    return request.param


# --- numbers --------------------------------------------------------------------------------------------


def test_vector_a_merged_probabilities(vector_a):
    log_q = marginal_log_probabilities(vector_a.student, vector_a.labelled)
    assert log_q.shape == vector_a.student.shape
    merged = log_q.exp().flatten(2)[0]
    expected = torch.tensor(vector_a.expected["merged_probabilities"], dtype=torch.float64)
    torch.testing.assert_close(merged[[0, 1, 2]], expected, rtol=1e-12, atol=0)
    assert not merged[[3, 4]].any(), "an unlabelled foreground class has no probability of its own"


def test_vector_a_terms(vector_a):
    terms = marginal_dice_ce(vector_a.student, vector_a.labels, vector_a.labelled)
    assert terms.dice.shape == terms.ce.shape == ()
    assert terms.dice.dtype == terms.ce.dtype == torch.float64
    assert terms.ce.item() == pytest.approx(vector_a.expected["marginal_ce"], rel=1e-12)
    assert terms.dice.item() == pytest.approx(vector_a.expected["marginal_dice"], rel=1e-12)
    channels = vector_a.expected["marginal_dice_per_channel"]
    assert terms.dice.item() == pytest.approx(sum(channels) / len(channels), rel=1e-12)
    assert (terms.dice + terms.ce).item() == pytest.approx(vector_a.expected["marginal_dice_ce"], rel=1e-12)


def test_vector_a_upstream_double_softmax(vector_a):
    terms = marginal_dice_ce(vector_a.student, vector_a.labels, vector_a.labelled, ce_on="double_softmax_compat")
    assert terms.ce.item() == pytest.approx(0.64518590, abs=5e-9)
    assert terms.dice.item() == pytest.approx(vector_a.expected["marginal_dice"], rel=1e-12), "Dice is not concerned"


def test_vector_a_absent_class(vector_a):
    background, first, absent = vector_a.expected["marginal_dice_per_channel"]
    assert absent == 1, "class 2 is labelled and absent"
    q = vector_a.expected["merged_probabilities"]
    y = [[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    smooth = [
        1 - (2 * sum(a * b for a, b in zip(q[c], y[c], strict=True)) + EPS) / (sum(q[c]) + sum(y[c]) + EPS)
        for c in range(3)
    ]
    expected = {"constant": (background + first + 1) / 3, "skip": (background + first) / 2, "smooth": sum(smooth) / 3}
    for absent_class, value in expected.items():
        terms = marginal_dice_ce(vector_a.student, vector_a.labels, vector_a.labelled, absent_class=absent_class)
        assert terms.dice.item() == pytest.approx(value, rel=1e-12), absent_class
        assert terms.ce.item() == pytest.approx(vector_a.expected["marginal_ce"], rel=1e-12), absent_class


def test_a_case_computed_by_hand():
    """2 x 2 x 1 voxels, classes 0, 1, 2 of which 1 is labelled; logits are logs of round probabilities."""
    p = torch.tensor(
        [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.5, 0.125, 0.375], [0.125, 0.75, 0.125]], dtype=torch.float64
    )
    logits = p.log().T.reshape(1, 3, 2, 2, 1)
    labels = torch.tensor([1, 0, 0, 1]).reshape(1, 2, 2, 1)
    labelled = torch.tensor([[False, True, False]])
    # merged background .5 .75 .875 .25; class 1 .5 .25 .125 .75
    terms = marginal_dice_ce(logits, labels, labelled)
    assert terms.ce.item() == pytest.approx(-math.log(0.5 * 0.75 * 0.875 * 0.75) / 4, rel=1e-14)
    background = 1 - 2 * (0.75 + 0.875) / (2.375 + 2 + EPS)
    foreground = 1 - 2 * (0.5 + 0.75) / (1.625 + 2 + EPS)
    assert terms.dice.item() == pytest.approx((background + foreground) / 2, rel=1e-14)
    squared = marginal_dice_ce(logits, labels, labelled, squared=True)
    background = 1 - 2 * (0.75 + 0.875) / (0.25 + 0.5625 + 0.765625 + 0.0625 + 2 + EPS)
    foreground = 1 - 2 * (0.5 + 0.75) / (0.25 + 0.0625 + 0.015625 + 0.5625 + 2 + EPS)
    assert squared.dice.item() == pytest.approx((background + foreground) / 2, rel=1e-14)
    assert squared.ce.item() == terms.ce.item()


@pytest.mark.parametrize("absent_class", ABSENT)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("without", [(), (2,), (1, 3)])
def test_the_slow_reference(cases, absent_class, squared, without):
    logits, labels, labelled = random_batch(*cases, without=without)
    terms = marginal_dice_ce(logits, labels, labelled, absent_class=absent_class, squared=squared)
    slow = slow_dice(logits, labels, labelled, absent_class=absent_class, squared=squared)
    assert terms.dice.item() == pytest.approx(slow, rel=1e-11)
    assert terms.ce.item() == pytest.approx(slow_ce(logits, labels, labelled), rel=1e-11)


def test_double_softmax_compat_against_the_slow_reference(cases):
    logits, labels, labelled = random_batch(*cases)
    terms = marginal_dice_ce(logits, labels, labelled, ce_on="double_softmax_compat")
    assert terms.ce.item() == pytest.approx(slow_ce(logits, labels, labelled, softmax_again=True), rel=1e-11)


@pytest.mark.parametrize(("truth", "expected"), [(1, math.log(math.e + 2) - 1), (2, math.log(math.e + 2))])
def test_double_softmax_compat_is_bounded_as_upstream_was(truth, expected):
    """METHODS U1: a perfect prediction costs 0.5514, a maximally wrong one 1.5514; three merged channels."""
    logits = torch.zeros(1, 4, 2, 2, 1, dtype=torch.float64)
    logits[:, 1] = 1000.0
    labels = torch.full((1, 2, 2, 1), truth)
    terms = marginal_dice_ce(logits, labels, mask_of({1, 2}, num_channels=4), ce_on="double_softmax_compat")
    assert expected == pytest.approx({1: 0.5514, 2: 1.5514}[truth], abs=5e-5)
    assert terms.ce.item() == pytest.approx(expected, rel=1e-12)


# --- invariants -----------------------------------------------------------------------------------------


def test_with_every_class_labelled_it_is_plain_dice_plus_ce():
    logits, labels, labelled = random_batch({1, 2, 3, 4}, {1, 2, 3, 4}, seed=3)
    terms = marginal_dice_ce(logits, labels, labelled)
    dice, ce = plain_dice_plus_ce(logits, labels)
    assert terms.dice.item() == pytest.approx(dice, rel=1e-12)
    assert terms.ce.item() == pytest.approx(ce, rel=1e-12)


def test_merged_probabilities_of_every_case_sum_to_one(cases):
    logits, _, labelled = random_batch(*cases)
    q = marginal_log_probabilities(logits, labelled).exp()
    torch.testing.assert_close(q.sum(dim=1), torch.ones_like(q[:, 0]), rtol=1e-12, atol=0)
    for row, known, log_p in zip(q, labelled, logits.log_softmax(dim=1), strict=True):
        torch.testing.assert_close(row[known], log_p[known].exp(), rtol=1e-12, atol=0)
        torch.testing.assert_close(row[0], log_p[~known].exp().sum(dim=0), rtol=1e-12, atol=0)
        assert not row[1:][~known[1:]].any()


def test_log_probabilities_are_finite_everywhere(cases):
    logits, _, labelled = random_batch(*cases)
    log_q = marginal_log_probabilities(logits, labelled)
    assert log_q.isfinite().all()
    unlabelled = ~labelled[:, 1:]
    assert (log_q[:, 1:][unlabelled] < -1e3).all()


@pytest.mark.parametrize("order", [[3, 1, 2, 4, 0], [4, 1, 2, 0, 3], [0, 1, 2, 4, 3]])
def test_permuting_unlabelled_classes_changes_nothing(order):
    logits, labels, labelled = random_batch({1, 2}, {1, 2})
    there, permuted = (marginal_dice_ce(z, labels, labelled) for z in (logits, logits[:, order]))
    assert permuted.dice.item() == pytest.approx(there.dice.item(), rel=1e-12)
    assert permuted.ce.item() == pytest.approx(there.ce.item(), rel=1e-12)


def test_a_constant_added_to_all_logits_of_a_voxel_changes_nothing():
    logits, labels, labelled = random_batch(*MIXED)
    shift = 5 * torch.randn(len(MIXED), 1, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there, shifted = (marginal_dice_ce(z, labels, labelled) for z in (logits, logits + shift))
    assert shifted.dice.item() == pytest.approx(there.dice.item(), rel=1e-12)
    assert shifted.ce.item() == pytest.approx(there.ce.item(), rel=1e-12)


def test_ce_of_mixed_masks_is_the_mean_over_cases():
    logits, labels, labelled = random_batch(*MIXED)
    single = [marginal_dice_ce(logits[[n]], labels[[n]], labelled[[n]]).ce.item() for n in range(len(MIXED))]
    terms = marginal_dice_ce(logits, labels, labelled)
    assert terms.ce.item() == pytest.approx(sum(single) / len(single), rel=1e-12)


def test_the_order_of_the_cases_does_not_matter():
    logits, labels, labelled = random_batch(*MIXED)
    there, turned = (marginal_dice_ce(logits[o], labels[o], labelled[o]) for o in ([0, 1, 2], [2, 0, 1]))
    assert turned.dice.item() == pytest.approx(there.dice.item(), rel=1e-12)
    assert turned.ce.item() == pytest.approx(there.ce.item(), rel=1e-12)


@pytest.mark.parametrize("value", [3, 4, 99, 255, -1])
def test_a_label_that_the_case_does_not_annotate_is_merged_background(value):
    """METHODS 1.1.2: y_bg = 1 if the label is not in F; so also for values that are no channel at all."""
    logits, labels, labelled = random_batch({1, 2}, {1, 2})
    assert (labels == 0).any()
    strange = torch.where(labels == 0, value, labels)
    there, here = (marginal_dice_ce(logits, y, labelled) for y in (labels, strange))
    assert here.dice.item() == pytest.approx(there.dice.item(), rel=1e-14)
    assert here.ce.item() == pytest.approx(there.ce.item(), rel=1e-14)


def test_a_class_of_one_case_is_background_in_a_case_that_does_not_annotate_it():
    logits, labels, labelled = random_batch({1, 2}, {3})
    labels[1, 0] = 1  # the second case does not annotate class 1
    background = labels.clone()
    background[1, 0] = 0
    there, here = (marginal_dice_ce(logits, y, labelled) for y in (background, labels))
    assert here.dice.item() == pytest.approx(there.dice.item(), rel=1e-14)
    assert here.ce.item() == pytest.approx(there.ce.item(), rel=1e-14)


def test_predictions_for_unlabelled_classes_cost_nothing_where_the_label_is_zero():
    logits, labels, labelled = random_batch({1, 2})
    labels = torch.zeros_like(labels)
    logits[:, 3] = 1000.0
    terms = marginal_dice_ce(logits, labels, labelled, absent_class="skip")
    assert terms.ce.item() == pytest.approx(0, abs=1e-12)
    assert terms.dice.item() == pytest.approx(0, abs=1e-5)


def test_a_perfect_prediction_costs_next_to_nothing(cases):
    _, labels, labelled = random_batch(*cases, grid=(4, 4, 4))
    logits = 100.0 * torch.nn.functional.one_hot(labels, 5).movedim(-1, 1).double()
    terms = marginal_dice_ce(logits, labels, labelled)
    assert terms.ce.item() == pytest.approx(0, abs=1e-9)
    assert terms.dice.item() == pytest.approx(0, abs=1e-4)


# --- gradients and absent classes ---------------------------------------------------------------------


@pytest.mark.parametrize("ce_on", ["merged_prob", "double_softmax_compat"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("absent_class", ABSENT)
def test_gradcheck(absent_class, squared, ce_on):
    logits, labels, labelled = random_batch({1, 2}, {3}, grid=(2, 2, 1), without=(2,))

    def both(z):
        terms = marginal_dice_ce(z, labels, labelled, absent_class=absent_class, squared=squared, ce_on=ce_on)
        return terms.dice, terms.ce

    assert torch.autograd.gradcheck(both, logits.requires_grad_())


def test_a_constant_absent_class_adds_one_to_the_mean_and_nothing_to_the_gradient():
    batch = random_batch({1, 2}, {1, 2}, without=(2,))
    constant, skip = (marginal_dice_ce(*batch, absent_class=option).dice for option in ("constant", "skip"))
    assert 3 * constant.item() == pytest.approx(2 * skip.item() + 1, rel=1e-12)
    of_constant, of_skip = (gradients(*batch, absent_class=option)[0] for option in ("constant", "skip"))
    assert of_skip.abs().max() > 1e-3
    torch.testing.assert_close(3 * of_constant, 2 * of_skip, rtol=1e-9, atol=1e-15)


def test_smooth_is_the_only_dice_that_pushes_an_absent_class_down():
    logits, labels, labelled = random_batch({1})
    labels = torch.zeros_like(labels)
    background_only = gradients(logits, labels, labelled, absent_class="skip")[0]
    constant = gradients(logits, labels, labelled, absent_class="constant")[0]
    torch.testing.assert_close(2 * constant, background_only, rtol=1e-9, atol=1e-15)
    smooth = 2 * gradients(logits, labels, labelled, absent_class="smooth")[0] - background_only
    assert (smooth[:, 1] > 0).all(), "lowering the logit of the absent class lowers the loss"


def test_smooth_rewards_predicting_nothing_of_an_absent_class():
    logits, labels, labelled = random_batch({1})
    labels = torch.zeros_like(labels)
    logits[:, 1] = -1000.0
    values = {option: marginal_dice_ce(logits, labels, labelled, absent_class=option).dice.item() for option in ABSENT}
    assert values["smooth"] == pytest.approx(0, abs=1e-5)
    assert values["constant"] == pytest.approx(0.5, abs=1e-5)
    assert values["skip"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("absent_class", ABSENT)
def test_cross_entropy_punishes_an_absent_class_in_any_case(absent_class):
    logits, labels, labelled = random_batch({1, 2}, without=(2,))
    assert (gradients(logits, labels, labelled, absent_class=absent_class)[1][:, 2] > 0).all()


@pytest.mark.parametrize("absent_class", ABSENT)
def test_a_class_present_only_where_it_is_not_annotated_is_absent(absent_class):
    logits, labels, labelled = random_batch({1, 2}, {3}, without=(1,))
    labels[1, 0] = 1
    terms = marginal_dice_ce(logits, labels, labelled, absent_class=absent_class)
    assert terms.dice.item() == pytest.approx(slow_dice(logits, labels, labelled, absent_class=absent_class), rel=1e-11)


@pytest.mark.parametrize("absent_class", ABSENT)
def test_a_volume_without_background_and_one_without_foreground(absent_class):
    logits, labels, labelled = random_batch({1, 2})
    for value in (0, 1):
        uniform = torch.full_like(labels, value)
        terms = marginal_dice_ce(logits, uniform, labelled, absent_class=absent_class)
        slow = slow_dice(logits, uniform, labelled, absent_class=absent_class)
        assert terms.dice.item() == pytest.approx(slow, rel=1e-11)


def test_all_options_agree_when_no_class_is_absent():
    batch = random_batch({1, 2}, {3}, grid=(4, 4, 4))
    values = [marginal_dice_ce(*batch, absent_class=option).dice.item() for option in ABSENT]
    assert values[1] == pytest.approx(values[0], rel=1e-14)
    assert values[2] == pytest.approx(values[0], abs=1e-5)


# --- number formats and tensor subclasses -----------------------------------------------------------------


@pytest.mark.parametrize("ce_on", ["merged_prob", "double_softmax_compat"])
@pytest.mark.parametrize("absent_class", ABSENT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, absent_class, ce_on):
    _, labels, labelled = random_batch(*MIXED, grid=(4, 4, 2), without=(2,))
    rng = torch.Generator().manual_seed(5)
    extremes = torch.tensor([-6e4, -1e4, 0.0, 1e4, 6e4])
    logits = extremes[torch.randint(5, (3, 5, 4, 4, 2), generator=rng)].to(dtype).requires_grad_()
    terms = marginal_dice_ce(logits, labels, labelled, absent_class=absent_class, ce_on=ce_on)
    (terms.dice + terms.ce).backward()
    assert terms.dice.isfinite()
    assert terms.ce.isfinite()
    assert logits.grad.isfinite().all()
    assert marginal_log_probabilities(logits, labelled).isfinite().all()


def test_extreme_logits_have_the_right_cross_entropy():
    logits = torch.tensor([-6e4, 6e4]).reshape(1, 2, 1, 1, 1)
    labels, labelled = torch.zeros(1, 1, 1, 1, dtype=torch.int64), torch.tensor([[False, True]])
    assert marginal_dice_ce(logits, labels, labelled).ce.item() == pytest.approx(1.2e5, rel=1e-6)
    assert marginal_dice_ce(logits, labels + 1, labelled).ce.item() == pytest.approx(0, abs=1e-6)


def test_single_precision_agrees_with_double():
    logits, labels, labelled = random_batch(*MIXED, grid=(12, 12, 12))
    double = marginal_dice_ce(logits, labels, labelled)
    single = marginal_dice_ce(logits.float(), labels, labelled)
    assert single.dice.dtype == single.ce.dtype == torch.float32
    assert single.dice.item() == pytest.approx(double.dice.item(), rel=1e-5)
    assert single.ce.item() == pytest.approx(double.ce.item(), rel=1e-5)


@pytest.mark.parametrize("ce_on", ["merged_prob", "double_softmax_compat"])
def test_autocast_loses_no_precision_beyond_the_logits(ce_on):
    _, labels, labelled = random_batch(*MIXED, grid=(8, 8, 8))
    rng = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 2, 1, 1, 1, generator=rng).requires_grad_()
    image = torch.randn(3, 2, 8, 8, 8, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = torch.nn.functional.conv3d(image, weight)
        terms = marginal_dice_ce(logits, labels, labelled, ce_on=ce_on)
    assert logits.dtype == torch.bfloat16, "the network did run in low precision"
    exact = marginal_dice_ce(logits.detach().double(), labels, labelled, ce_on=ce_on)
    assert terms.dice.item() == pytest.approx(exact.dice.item(), rel=1e-4)
    assert terms.ce.item() == pytest.approx(exact.ce.item(), rel=1e-4)
    (terms.dice + terms.ce).backward()
    assert weight.grad.isfinite().all()
    assert weight.grad.any()


def test_metatensors_give_the_same_values_as_plain_tensors():
    """METHODS U17: upstream's loss depended on the tensor subclass of the label."""
    from monai.data import MetaTensor

    logits, labels, labelled = random_batch(*MIXED)
    plain, plain_gradients = marginal_dice_ce(logits, labels, labelled), gradients(logits, labels, labelled)
    for z, y in ((logits, MetaTensor(labels)), (MetaTensor(logits), labels), (MetaTensor(logits), MetaTensor(labels))):
        terms = marginal_dice_ce(z, y, labelled)
        assert terms.dice.item() == plain.dice.item()
        assert terms.ce.item() == plain.ce.item()
        assert type(terms.dice) is type(terms.ce) is torch.Tensor
    for expected, found in zip(plain_gradients, gradients(logits, MetaTensor(labels), labelled), strict=True):
        assert torch.equal(expected, found)


def test_the_inputs_are_left_alone():
    logits, labels, labelled = random_batch(*MIXED)
    before = [tensor.clone() for tensor in (logits, labels, labelled)]
    marginal_dice_ce(logits, labels, labelled)
    assert all(torch.equal(a, b) for a, b in zip(before, (logits, labels, labelled), strict=True))
