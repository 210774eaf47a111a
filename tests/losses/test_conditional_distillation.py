"""Conditional distillation against METHODS 1.2, vector A, and a reference in slow Python loops."""

import math

import pytest
import torch

from fedpartial.labels import LabelSpace, Organ
from fedpartial.losses.conditional_distillation import conditional_distillation, conditional_probabilities

EPS = 1e-5
TEMPERATURES = ("0.5", "1.0", "2.0")
DENOMINATORS = ("linear", "squared")
CONDITIONALS = ("exact", "upstream")


# --- the slow reference: plain Python floats, one voxel at a time -----------------------------------


def softmax(column):
    top = max(column)
    powers = [math.exp(z - top) for z in column]
    return [power / sum(powers) for power in powers]


def slow_conditional(column, known, groups, temperature, conditional):
    """One voxel: {group: conditional probability} over the groups that have an unlabelled class (Eq 3-7)."""
    p = softmax([z / temperature for z in column])
    rest = {m: [c for c in members if c not in known] for m, members in enumerate(groups)}
    merged = {m: sum(p[c] for c in members) for m, members in rest.items() if members}
    total = 1 - sum(p[c] for c in known) + EPS if conditional == "upstream" else sum(merged.values())
    return {m: value / total for m, value in merged.items()}


def slow_distillation(student, teacher, labels, labelled, groups, *, temperature, denominator, conditional):
    groups = [[c for c, member in enumerate(row) if member] for row in groups.tolist()]
    overlap, size = {}, {}
    for n in range(len(labels)):
        known = {c for c, is_labelled in enumerate(labelled[n].tolist()) if is_labelled}
        columns = zip(student[n].flatten(1).T.tolist(), teacher[n].flatten(1).T.tolist(), strict=True)
        for (own, other), label in zip(columns, labels[n].flatten().tolist(), strict=True):
            is_open = not (label in known or other.index(max(other)) in known)
            mine = slow_conditional(own, known, groups, temperature, conditional)
            theirs = slow_conditional(other, known, groups, temperature, conditional)
            for m in mine:
                a, b = mine[m] * is_open, theirs[m] * is_open
                overlap[m] = overlap.get(m, 0.0) + a * b
                size[m] = size.get(m, 0.0) + (a * a + b * b if denominator == "squared" else a + b)
    losses = [1 - 2 * overlap[m] / (size[m] + EPS) for m in overlap]
    return sum(losses) / len(losses)


# --- batches ------------------------------------------------------------------------------------------


def group_matrix(*groups, num_channels=5):
    return torch.tensor([[c in group for c in range(num_channels)] for group in groups])


def mask_of(*cases, num_channels=5):
    return torch.tensor([[c in classes for c in range(num_channels)] for classes in cases])


GROUPS = group_matrix({0}, {1, 2}, {3}, {4})


def random_batch(*cases, grid=(3, 2, 2), seed=0, groups=GROUPS):
    """Student, teacher, labels in {0} and the case's classes (mostly 0), mask and groups."""
    rng = torch.Generator().manual_seed(seed)
    num_channels = groups.shape[1]
    student, teacher = 1.5 * torch.randn(2, len(cases), num_channels, *grid, generator=rng, dtype=torch.float64)
    labels = torch.empty(len(cases), *grid, dtype=torch.int64)
    for volume, classes in zip(labels, cases, strict=True):
        values = torch.tensor([0, 0, 0, *classes])
        volume.copy_(values[torch.randint(len(values), grid, generator=rng)])
    return student, teacher, labels, mask_of(*cases, num_channels=num_channels), groups


def student_gradient(student, *rest, **options):
    student = student.detach().requires_grad_()
    return torch.autograd.grad(conditional_distillation(student, *rest, **options), student)[0]


BATCHES = {
    "one case": ({1, 2},),
    "an organ without its lesion": ({1},),
    "a lesion without its organ": ({2, 3},),
    "everything labelled": ({1, 2, 3, 4},),
    "same mask twice": ({1, 2}, {1, 2}),
    "disjoint masks": ({1, 2}, {3, 4}),
    "mixed masks": ({1, 2}, {3}, {1, 2, 3, 4}, {2}),
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def cases(request):
    return request.param


@pytest.fixture
def batch_a(vector_a):
    return vector_a.student, vector_a.teacher, vector_a.labels, vector_a.labelled, vector_a.groups


# --- numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("net", ["student", "teacher"])
def test_vector_a_conditional_probabilities(vector_a, net, temperature):
    logits = getattr(vector_a, net)
    found = conditional_probabilities(logits, vector_a.labelled, vector_a.groups, float(temperature))
    assert found.shape == (1, 4, 2, 2, 1)
    expected = vector_a.expected["condist_by_temperature"][temperature][f"conditional_{net}"]
    found = found.flatten(2)[0]
    torch.testing.assert_close(
        found[vector_a.background_rows], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert not found[1].any(), "the group of the labelled classes has no conditional probability"


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_vector_a_loss(vector_a, batch_a, temperature, denominator):
    loss = conditional_distillation(*batch_a, temperature=float(temperature), denominator=denominator)
    expected = vector_a.expected["condist_by_temperature"][temperature][f"dice_{denominator}"]
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_vector_a_loss_of_a_student_that_agrees(vector_a, batch_a, temperature):
    _, teacher, *rest = batch_a
    expected = vector_a.expected["condist_by_temperature"][temperature]["self_dice_linear"]
    loss = conditional_distillation(teacher, teacher, *rest, temperature=float(temperature))
    assert loss.item() == pytest.approx(expected, rel=1e-11)


def test_the_default_temperature_is_that_of_the_paper_and_the_default_denominator_linear(vector_a, batch_a):
    expected = vector_a.expected["condist_by_temperature"]["0.5"]["dice_linear"]
    assert conditional_distillation(*batch_a).item() == pytest.approx(expected, rel=1e-11)


def test_vector_a_mask_by_its_effect(vector_a, batch_a):
    gradient = student_gradient(*batch_a).flatten(2)[0]
    is_open = gradient.abs().amax(dim=0) > 1e-6
    assert is_open.tolist() == [bool(value) for value in vector_a.expected["condist_mask"]]
    assert not gradient[:, ~is_open].any()


def test_a_case_computed_by_hand():
    """2 x 2 x 1 voxels, classes 0, 1, 2 of which 1 is labelled; conditional probabilities are written down."""
    labels = torch.tensor([1, 0, 0, 0]).reshape(1, 2, 2, 1)  # voxel 0: masked by its label
    student = torch.tensor(
        [[0.3, 0.4, 0.3], [0.6, 0.3, 0.1], [0.75, 0.5, 0.25], [0.5, 9.0, 0.5]], dtype=torch.float64
    )  # columns 0 and 2 are the conditional probabilities; column 1 does not matter
    teacher = torch.tensor(
        [[0.6, 0.1, 0.4], [0.3, 0.4, 0.3], [0.5, 0.1, 0.5], [0.2, 0.1, 0.8]], dtype=torch.float64
    )  # voxel 1: masked by the teacher
    group_0 = 1 - 2 * (0.75 * 0.5 + 0.5 * 0.2) / (0.75 + 0.5 + 0.5 + 0.2 + EPS)
    group_2 = 1 - 2 * (0.25 * 0.5 + 0.5 * 0.8) / (0.25 + 0.5 + 0.5 + 0.8 + EPS)
    squared_0 = 1 - 2 * (0.75 * 0.5 + 0.5 * 0.2) / (0.5625 + 0.25 + 0.25 + 0.04 + EPS)
    squared_2 = 1 - 2 * (0.25 * 0.5 + 0.5 * 0.8) / (0.0625 + 0.25 + 0.25 + 0.64 + EPS)
    for temperature in (0.5, 1.0, 2.0):
        z_student, z_teacher = ((temperature * p.log()).T.reshape(1, 3, 2, 2, 1) for p in (student, teacher))
        arguments = (z_student, z_teacher, labels, mask_of({1}, num_channels=3), torch.eye(3, dtype=torch.bool))
        loss = conditional_distillation(*arguments, temperature=temperature)
        assert loss.item() == pytest.approx((group_0 + group_2) / 2, rel=1e-13)
        loss = conditional_distillation(*arguments, temperature=temperature, denominator="squared")
        assert loss.item() == pytest.approx((squared_0 + squared_2) / 2, rel=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_the_slow_reference(cases, temperature, denominator, conditional):
    batch = random_batch(*cases)
    options = {"temperature": temperature, "denominator": denominator, "conditional": conditional}
    loss = conditional_distillation(*batch, **options)
    assert loss.item() == pytest.approx(slow_distillation(*batch, **options), rel=1e-10, abs=1e-12)


def test_the_groups_of_the_condistfl_sites():
    """The groups of the label space serve every site: the kidney's are [0], [1, 2], [3], [4, 5]."""
    organs = [Organ(name="liver", lesions=("liver_tumor",)), Organ(name="spleen")]
    organs += [Organ(name=name, lesions=(f"{name}_tumor",)) for name in ("pancreas", "kidney")]
    space = LabelSpace(organs=tuple(organs))
    groups = torch.from_numpy(space.group_matrix())
    kidney = torch.from_numpy(space.labelled_mask(["kidney", "kidney_tumor"]))
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 8, 4, 4, 2, generator=rng, dtype=torch.float64)
    labels = torch.randint(2, (1, 4, 4, 2), generator=rng) * 6
    by_hand = group_matrix({0}, {1, 2}, {3}, {4, 5}, num_channels=8)
    loss, expected = (conditional_distillation(student, teacher, labels, kidney[None], g) for g in (groups, by_hand))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


# --- conditional probabilities ----------------------------------------------------------------------------


def test_conditional_probabilities_sum_to_one_over_the_groups(cases):
    student, _, _, labelled, groups = random_batch(*cases)
    found = conditional_probabilities(student, labelled, groups, 0.5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones_like(found[:, 0]), rtol=1e-12, atol=0)


def test_the_exact_form_stays_a_distribution_where_the_foreground_is_certain():
    """METHODS 1.2.4: upstream's form fades to about 2e-4 there."""
    logits = torch.zeros(1, 5, 2, 2, 1, dtype=torch.float64)
    logits[:, 1] = 30.0
    labelled = mask_of({1, 2})
    exact = conditional_probabilities(logits, labelled, GROUPS, 1.0).flatten(2)[0, :, 0]
    assert exact.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], rel=1e-12)
    upstream = conditional_probabilities(logits, labelled, GROUPS, 1.0, conditional="upstream")
    assert (upstream.sum(dim=1) < 1e-3).all()


def test_the_upstream_form_is_a_little_less_than_the_exact_one():
    student, _, _, labelled, groups = random_batch({1, 2})
    exact, upstream = (
        conditional_probabilities(student, labelled, groups, 1.0, conditional=form) for form in CONDITIONALS
    )
    rest = student.softmax(dim=1)[:, [0, 3, 4]].sum(dim=1, keepdim=True)
    torch.testing.assert_close(upstream, exact * rest / (rest + EPS), rtol=1e-9, atol=0)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_logits_of_labelled_classes_do_not_matter_to_the_student(denominator):
    student, teacher, labels, labelled, groups = random_batch({1, 2}, {3})
    moved = student + 4 * labelled[:, :, None, None, None]
    there, here = (
        conditional_distillation(z, teacher, labels, labelled, groups, denominator=denominator)
        for z in (student, moved)
    )
    assert here.item() == pytest.approx(there.item(), rel=1e-12)
    gradient = student_gradient(student, teacher, labels, labelled, groups, denominator=denominator)
    assert gradient[labelled].abs().max() < 1e-15


def test_lower_temperatures_sharpen():
    student, _, _, labelled, groups = random_batch({1, 2})
    sharpest = [conditional_probabilities(student, labelled, groups, t).amax(dim=1).mean() for t in (0.25, 0.5, 1, 2)]
    assert sharpest == sorted(sharpest, reverse=True)


def test_a_temperature_is_a_division_of_the_logits():
    student, teacher, *rest = random_batch({1, 2}, {3})
    there = conditional_distillation(student, teacher, *rest, temperature=0.5)
    here = conditional_distillation(2 * student, 2 * teacher, *rest, temperature=1.0)
    assert here.item() == pytest.approx(there.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0, 0.0, -0.5, math.nan])
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_the_temperature_must_be_above_zero(temperature, conditional):
    batch = random_batch({1, 2})
    with pytest.raises(ValueError, match="temperature"):
        conditional_distillation(*batch, temperature=temperature, conditional=conditional)


# --- the mask -----------------------------------------------------------------------------------------------


def open_voxels(student, *rest):
    gradient = student_gradient(student, *rest, denominator="squared")
    return (gradient.abs().amax(dim=1) > 1e-9).flatten().tolist()


def test_voxels_of_labelled_classes_and_of_the_teachers_labelled_classes_are_masked():
    rng = torch.Generator().manual_seed(0)
    student = torch.randn(1, 5, 2, 2, 1, generator=rng, dtype=torch.float64)
    teacher = torch.zeros(1, 5, 4, dtype=torch.float64)
    for voxel, (channel, value) in enumerate([(0, 2.0), (3, 2.0), (1, 2.0), (2, 2.0)]):
        teacher[0, channel, voxel] = value
    teacher = teacher.reshape(student.shape)
    labels = torch.tensor([0, 1, 0, 2]).reshape(1, 2, 2, 1)
    assert open_voxels(student, teacher, labels, mask_of({1, 2}), GROUPS) == [True, False, False, False]
    assert open_voxels(student, teacher, labels, mask_of({1}), GROUPS) == [True, False, False, True]
    assert open_voxels(student, teacher, labels, mask_of({4}), GROUPS) == [True, True, True, True]


def test_the_mask_takes_the_single_most_likely_channel_not_the_merged_foreground():
    student = torch.randn(1, 5, 1, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = torch.tensor([[0.4, 0.3, 0.2, 0.05, 0.05], [0.25, 0.3, 0.05, 0.2, 0.2]], dtype=torch.float64)
    teacher = teacher.log().T.reshape(1, 5, 1, 2, 1)
    labels = torch.zeros(1, 1, 2, 1, dtype=torch.int64)
    # voxel 0: foreground 0.5 > background 0.4, yet the most likely channel is 0; voxel 1: channel 1 < merged rest
    assert open_voxels(student, teacher, labels, mask_of({1, 2}), GROUPS) == [True, False]


def test_the_students_own_prediction_does_not_mask():
    student, teacher, labels, labelled, groups = random_batch({1, 2})
    teacher[:, 0] += 100.0
    labels = torch.zeros_like(labels)
    student[:, 1] += 3.0
    assert all(open_voxels(student, teacher, labels, labelled, groups))


def test_masked_voxels_have_no_effect():
    student, teacher, labels, labelled, groups = random_batch({1, 2}, {3})
    masked = labelled.gather(1, labels.flatten(1)).reshape(labels.shape)
    assert masked.any()
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    moved = [z + noise * masked[:, None] for z in (student, teacher)]
    there = conditional_distillation(student, teacher, labels, labelled, groups)
    here = conditional_distillation(*moved, labels, labelled, groups)
    assert here.item() == pytest.approx(there.item(), rel=1e-13)
    gradient = student_gradient(student, teacher, labels, labelled, groups)
    assert not (gradient * masked[:, None]).any()


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
@pytest.mark.parametrize("by", ["labels", "teacher"])
def test_with_every_voxel_masked_the_loss_is_one_without_gradient(by, denominator, conditional):
    student, teacher, labels, labelled, groups = random_batch({1, 2}, {1, 3})
    labels = torch.ones_like(labels) if by == "labels" else torch.zeros_like(labels)
    if by == "teacher":
        teacher[:, 1] = 100.0
    options = {"denominator": denominator, "conditional": conditional}
    assert conditional_distillation(student, teacher, labels, labelled, groups, **options).item() == 1
    assert not student_gradient(student, teacher, labels, labelled, groups, **options).any()


@pytest.mark.parametrize("value", [3, 4, 99, 255, -1])
def test_a_label_that_the_case_does_not_annotate_masks_nothing(value):
    """METHODS 1.2.5: only labels in F mask; so also for values that are no channel at all."""
    student, teacher, labels, labelled, groups = random_batch({1, 2}, {1, 2})
    strange = torch.where(labels == 0, value, labels)
    there, here = (conditional_distillation(student, teacher, y, labelled, groups) for y in (labels, strange))
    assert here.item() == pytest.approx(there.item(), rel=1e-14)


# --- groups -------------------------------------------------------------------------------------------------


def test_a_group_that_every_case_labels_is_left_out(vector_a, batch_a):
    student, teacher, labels, labelled, groups = batch_a
    without = groups[vector_a.background_rows]
    there, here = (conditional_distillation(student, teacher, labels, labelled, g) for g in (groups, without))
    assert here.item() == pytest.approx(there.item(), rel=1e-14)


def test_one_group_only_is_always_agreement():
    batch = random_batch({1, 2, 3, 4}, grid=(4, 4, 4))
    assert conditional_distillation(*batch).item() == pytest.approx(0, abs=1e-4)
    assert student_gradient(*batch).abs().max() < 1e-12


def test_permuting_the_channels_of_a_group_changes_nothing():
    student, teacher, labels, labelled, groups = random_batch({3}, {3, 4})
    order = [0, 2, 1, 3, 4]
    there = conditional_distillation(student, teacher, labels, labelled, groups)
    here = conditional_distillation(student[:, order], teacher[:, order], labels, labelled, groups)
    assert here.item() == pytest.approx(there.item(), rel=1e-12)


def test_the_order_of_groups_and_of_cases_does_not_matter():
    student, teacher, labels, labelled, groups = random_batch({1, 2}, {3}, {4})
    there = conditional_distillation(student, teacher, labels, labelled, groups)
    turned = conditional_distillation(student, teacher, labels, labelled, groups[[2, 0, 3, 1]])
    assert turned.item() == pytest.approx(there.item(), rel=1e-12)
    order = [2, 0, 1]
    turned = conditional_distillation(student[order], teacher[order], labels[order], labelled[order], groups)
    assert turned.item() == pytest.approx(there.item(), rel=1e-12)


# --- agreement and gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_only_the_squared_denominator_is_zero_at_agreement(temperature):
    batch = list(random_batch({1, 2}, {3}, grid=(4, 4, 4)))
    batch[0] = batch[1].clone()
    squared = conditional_distillation(*batch, temperature=temperature, denominator="squared")
    linear = conditional_distillation(*batch, temperature=temperature, denominator="linear")
    assert squared.item() == pytest.approx(0, abs=1e-5)
    assert linear.item() > 0.1
    assert student_gradient(*batch, temperature=temperature, denominator="squared").abs().max() < 1e-6
    assert student_gradient(*batch, temperature=temperature, denominator="linear").abs().max() > 1e-4


def test_linear_dice_can_prefer_disagreement_and_squared_dice_cannot(batch_a):
    """METHODS 1.2.8: at temperature 2 the disagreeing student of vector A beats agreement."""
    student, teacher, *rest = batch_a
    linear, squared = (
        [conditional_distillation(z, teacher, *rest, temperature=2.0, denominator=d).item() for z in (student, teacher)]
        for d in DENOMINATORS
    )
    assert linear[0] < linear[1]
    assert squared[0] > squared[1]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_gradcheck(temperature, denominator, conditional):
    student, *rest = random_batch({1, 2}, {3}, grid=(2, 2, 1))
    options = {"temperature": temperature, "denominator": denominator, "conditional": conditional}
    assert student_gradient(student, *rest, **options).abs().max() > 1e-4
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: conditional_distillation(z, *rest, **options), student)


@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_the_teacher_receives_no_gradient(conditional):
    student, teacher, *rest = random_batch({1, 2}, {3})
    student.requires_grad_()
    teacher.requires_grad_()
    conditional_distillation(student, teacher, *rest, conditional=conditional).backward()
    assert student.grad.any()
    assert teacher.grad is None or not teacher.grad.any()


# --- number formats and tensor subclasses -----------------------------------------------------------------------


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, conditional, denominator):
    _, _, labels, labelled, groups = random_batch({1, 2}, {3}, {1, 2, 3, 4}, grid=(4, 4, 2))
    rng = torch.Generator().manual_seed(5)
    extremes = torch.tensor([-6e4, -1e4, 0.0, 1e4, 6e4])
    student, teacher = (extremes[torch.randint(5, (3, 5, 4, 4, 2), generator=rng)].to(dtype) for _ in range(2))
    student.requires_grad_()
    options = {"temperature": 0.5, "conditional": conditional, "denominator": denominator}
    loss = conditional_distillation(student, teacher, labels, labelled, groups, **options)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert conditional_probabilities(student, labelled, groups, 0.5, conditional=conditional).isfinite().all()


def test_single_precision_agrees_with_double():
    student, teacher, *rest = random_batch({1, 2}, {3}, grid=(12, 12, 12))
    double = conditional_distillation(student, teacher, *rest)
    single = conditional_distillation(student.float(), teacher.float(), *rest)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-5)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_autocast_loses_no_precision_beyond_the_logits(conditional, denominator):
    _, _, labels, labelled, groups = random_batch({1, 2}, {3}, grid=(8, 8, 8))
    rng = torch.Generator().manual_seed(2)
    own, other = torch.randn(2, 5, 2, 1, 1, 1, generator=rng)
    own.requires_grad_()
    image = torch.randn(2, 2, 8, 8, 8, generator=rng)
    options = {"conditional": conditional, "denominator": denominator}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student, teacher = (torch.nn.functional.conv3d(image, weight) for weight in (own, other))
        loss = conditional_distillation(student, teacher, labels, labelled, groups, **options)
    assert student.dtype == torch.bfloat16, "the network did run in low precision"
    exact = conditional_distillation(student.detach().double(), teacher.double(), labels, labelled, groups, **options)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    loss.backward()
    assert own.grad.isfinite().all()
    assert own.grad.any()


def test_metatensors_give_the_same_value_as_plain_tensors():
    """METHODS U17: upstream's mask depended on the tensor subclass of the label."""
    from monai.data import MetaTensor

    student, teacher, labels, labelled, groups = random_batch({1, 2}, {3})
    plain = conditional_distillation(student, teacher, labels, labelled, groups)
    for s, t, y in (
        (student, teacher, MetaTensor(labels)),
        (MetaTensor(student), teacher, labels),
        (student, MetaTensor(teacher), labels),
        (MetaTensor(student), MetaTensor(teacher), MetaTensor(labels)),
    ):
        loss = conditional_distillation(s, t, y, labelled, groups)
        assert loss.item() == plain.item()
        assert type(loss) is torch.Tensor
    plain_gradient = student_gradient(student, teacher, labels, labelled, groups)
    assert torch.equal(plain_gradient, student_gradient(student, teacher, MetaTensor(labels), labelled, groups))


def test_the_inputs_are_left_alone():
    batch = random_batch({1, 2}, {3})
    before = [tensor.clone() for tensor in batch]
    conditional_distillation(*batch)
    assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))
