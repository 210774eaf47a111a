"""The Lovász extension of the Jaccard loss: by hand, against the textbook, and both of its ways."""

import itertools

import pytest
import torch

from fedpartial.losses.lovasz import lovasz_jaccard, marginal_lovasz
from fedpartial.losses.marginal import merge


def textbook(p, y):
    """Berman et al. 2018, algorithm 1, by autograd."""
    y = y.flatten().to(p.dtype)
    errors, order = (y - p.flatten()).abs().sort(descending=True)
    y = y[order]
    jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
    return torch.dot(errors, torch.cat((jaccard[:1], jaccard.diff())))


def by_level_sets(p, y):
    """The integral of the Jaccard loss of {error > t} over t, in plain Python: no sort order enters."""
    errors = [abs(float(b) - a) for a, b in zip(p.tolist(), y.tolist(), strict=True)]
    total = 0.0
    for low, high in itertools.pairwise(sorted({0.0, *errors})):
        wrong = [bool(e > low) for e in errors]
        missed = sum(w and b for w, b in zip(wrong, y.tolist(), strict=True))
        added = sum(w and not b for w, b in zip(wrong, y.tolist(), strict=True))
        total += (high - low) * (1 - (int(y.sum()) - missed) / (int(y.sum()) + added))
    return total


def random_class(seed, *, dtype=torch.float64, ties=False, voxels=60):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(voxels, generator=generator, dtype=torch.float64)
    y = torch.rand(voxels, generator=generator) < 0.1 + 0.2 * (seed % 5)
    y[0] = True
    return ((p * 4).round() / 4 if ties else p).to(dtype), y


def value_and_gradient(p, y):
    p = p.clone().requires_grad_()
    value = lovasz_jaccard([p], [y])[0]
    value.backward()
    return value.detach(), p.grad


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@DTYPES
@pytest.mark.parametrize(
    ("p", "y", "value", "gradient"),
    [
        ([0.75], [1], 0.25, [-1]),
        ([0.25, 0.0], [1, 0], 0.75, [-1, 0]),
        # errors 3/4 (background), 1/2 (foreground): Jaccard loss grows by 1/2, then by 1/2
        ([0.75, 0.5], [0, 1], 0.75 * 1 / 2 + 0.5 * 1 / 2, [1 / 2, -1 / 2]),
        # errors 3/4, 1/2, 1/4 of foreground, background, foreground: 1/2, then 1 - 1/3 - 1/2, then the rest
        ([0.25, 0.5, 0.75], [1, 0, 1], 0.75 / 2 + 0.5 / 6 + 0.25 / 3, [-1 / 2, 1 / 6, -1 / 3]),
    ],
)
def test_cases_computed_by_hand(p, y, value, gradient, dtype):
    found, slope = value_and_gradient(torch.tensor(p, dtype=dtype), torch.tensor(y, dtype=torch.bool))
    assert found.item() == pytest.approx(value, rel=1e-6)
    assert slope.tolist() == pytest.approx(gradient, rel=1e-6)


def test_vector_a(vector_a):
    merged = merge(vector_a.student, vector_a.labels, vector_a.labelled)
    loss = marginal_lovasz(merged.q, merged.target, merged.counted)
    assert loss.item() == pytest.approx(vector_a.expected["marginal_lovasz"], rel=1e-12)
    single = [lovasz_jaccard([merged.q[:, c]], [merged.target == c]).item() for c in (0, 1)]
    assert single == pytest.approx(vector_a.expected["marginal_lovasz_present"], rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_value_equals_the_textbook_and_the_integral_over_level_sets(ties):
    for seed in range(10):
        p, y = random_class(seed, ties=ties)
        value, gradient = value_and_gradient(p, y)
        expected = p.clone().requires_grad_()
        textbook(expected, y).backward()
        assert value.item() == pytest.approx(textbook(p, y).item(), rel=1e-12)
        assert value.item() == pytest.approx(by_level_sets(p, y), rel=1e-12)
        if not ties:
            torch.testing.assert_close(gradient, expected.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("ties", [False, True])
def test_single_precision_takes_another_way_to_the_same_numbers(ties):
    for seed in range(10):
        p, y = random_class(seed, dtype=torch.float32, ties=ties)
        (single, of_single), (double, of_double) = value_and_gradient(p, y), value_and_gradient(p.double(), y)
        assert of_single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=1e-6)
        assert of_single.abs().sum().item() == pytest.approx(1, rel=1e-6), "the growths add up to the whole loss"
        if not ties:
            torch.testing.assert_close(of_single.double(), of_double, rtol=1e-6, atol=0)


@DTYPES
def test_with_equal_errors_the_gradient_is_one_of_those_that_support_the_loss(dtype):
    """The loss is convex in the errors, so any of its subgradients lies below it everywhere."""
    p, y = random_class(3, dtype=dtype, ties=True)
    value, gradient = value_and_gradient(p, y)
    for seed in range(10):
        other = random_class(seed, dtype=dtype)[0]
        assert lovasz_jaccard([other], [y]).item() >= (value + gradient @ (other - p)).item() - 1e-6


def test_gradcheck():
    (p, y), (other, z) = random_class(0, voxels=12), random_class(1, voxels=7)
    assert torch.autograd.gradcheck(
        lambda a, b: lovasz_jaccard([a, b], [y, z]), [p.requires_grad_(), other.requires_grad_()]
    )


@DTYPES
def test_the_order_of_the_voxels_does_not_matter(dtype):
    p, y = random_class(4, dtype=dtype)
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(0))
    (there, of_there), (here, of_here) = value_and_gradient(p, y), value_and_gradient(p[order], y[order])
    assert here.item() == pytest.approx(there.item(), rel=1e-6)
    torch.testing.assert_close(of_here, of_there[order], rtol=1e-6, atol=0)


@DTYPES
def test_a_perfect_prediction_costs_nothing_and_the_worst_one_costs_one(dtype):
    _, y = random_class(2)
    assert lovasz_jaccard([y.to(dtype)], [y]).item() == 0
    assert lovasz_jaccard([(~y).to(dtype)], [y]).item() == pytest.approx(1, rel=1e-6)


@DTYPES
def test_of_a_hard_segmentation_it_is_the_jaccard_loss(dtype):
    for seed in range(5):
        p, y = random_class(seed)
        hard = p > 0.5
        jaccard = (hard & y).sum() / (hard | y).sum()
        assert lovasz_jaccard([hard.to(dtype)], [y]).item() == pytest.approx(1 - jaccard.item(), rel=1e-6)


@DTYPES
def test_a_class_without_foreground_has_neither_loss_nor_gradient(dtype):
    p, y = random_class(0, dtype=dtype)
    value, gradient = value_and_gradient(p, torch.zeros_like(y))
    assert value.item() == 0
    assert not gradient.any()


@DTYPES
def test_several_classes_and_shapes_at_once(dtype):
    first, second = random_class(0, dtype=dtype), random_class(1, dtype=dtype, voxels=24)
    a, b = first[0].clone().requires_grad_(), second[0].view(2, 12).clone().requires_grad_()
    losses = lovasz_jaccard([a, b], [first[1], second[1].view(2, 12)])
    (3 * losses[0] + losses[1]).backward()
    for found, grad, (p, y), factor in ((losses[0], a.grad, first, 3), (losses[1], b.grad, second, 1)):
        value, gradient = value_and_gradient(p, y)
        assert found.item() == value.item()
        torch.testing.assert_close(grad.flatten(), factor * gradient)


def test_one_thread_or_two_give_the_same_bits():
    classes = [random_class(seed, dtype=torch.float32, voxels=5000) for seed in range(4)]
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append([value_and_gradient(p, y) for p, y in classes])
            found[-1].append((lovasz_jaccard(*zip(*classes, strict=True)), torch.zeros(())))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for one, two in zip(*found, strict=True) for a, b in zip(one, two, strict=True))


def test_strided_views_give_the_same_numbers():
    p, y = random_class(0, dtype=torch.float32)
    wide = torch.stack((p, 1 - p), dim=1)
    assert not wide[:, 0].is_contiguous()
    assert lovasz_jaccard([wide[:, 0]], [y]).item() == lovasz_jaccard([p], [y]).item()


# --- marginal -----------------------------------------------------------------------------------------


def mixed_batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 5, 3, 3, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (3, 3, 3, 2), generator=generator)
    labelled = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    return logits.to(dtype), labels, labelled


def loss_of(logits, labels, labelled):
    merged = merge(logits, labels, labelled)
    return marginal_lovasz(merged.q, merged.target, merged.counted)


def test_mixed_masks_take_a_classs_voxels_from_the_cases_that_annotate_it():
    logits, labels, labelled = mixed_batch()
    merged = merge(logits, labels, labelled)
    cases = {0: [0, 1, 2], 1: [0, 2], 2: [0, 2], 3: [1, 2], 4: [2]}
    expected = [textbook(merged.q[n, c], merged.target[n] == c).item() for c, n in cases.items()]
    assert loss_of(logits, labels, labelled).item() == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_classes_that_do_not_occur_do_not_count():
    logits, labels, labelled = mixed_batch()
    labels = torch.where(labels == 4, 0, labels)
    merged = merge(logits, labels, labelled)
    cases = {0: [0, 1, 2], 1: [0, 2], 2: [0, 2], 3: [1, 2]}
    expected = [textbook(merged.q[n, c], merged.target[n] == c).item() for c, n in cases.items()]
    assert loss_of(logits, labels, labelled).item() == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_background_alone_is_a_class_that_occurs():
    logits, labels, labelled = mixed_batch()
    merged = merge(logits, torch.zeros_like(labels), labelled)
    expected = (1 - merged.q[:, 0]).mean()  # all is foreground: every growth is 1 / P
    assert loss_of(logits, torch.zeros_like(labels), labelled).item() == pytest.approx(expected.item(), rel=1e-12)


def test_marginal_gradcheck():
    logits, labels, labelled = mixed_batch()
    logits, labels, labelled = logits[1:, :, :2, :2, 0], labels[1:, :2, :2, 0], labelled[1:]
    assert torch.autograd.gradcheck(lambda z: loss_of(z, labels, labelled), logits.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 3e4])
def test_low_precision_and_extreme_logits_stay_finite(dtype, scale):
    logits, labels, labelled = mixed_batch(dtype)
    logits = (scale * logits.sign()).to(dtype).requires_grad_()
    loss = loss_of(logits, labels, labelled)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_under_autocast_the_sort_sees_single_precision():
    logits, labels, labelled = mixed_batch(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(logits, labels, labelled)
    assert loss.item() == pytest.approx(loss_of(logits.double(), labels, labelled).item(), rel=1e-5)
