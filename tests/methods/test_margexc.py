"""MargExc: combinations by weight, the limit in which it is FedAvg, its options and what it refuses."""

import pytest
import torch

from fedpartial.errors import ConfigError
from fedpartial.losses.combination import LOSS_NAMES
from fedpartial.methods.base import RoundContext
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.margexc import MargExc
from fedpartial.presets import ABDOMEN
from fedpartial.training.reported import LOSS_PARTS

CONTEXT = RoundContext(round_number=0, num_rounds=1, groups=torch.from_numpy(ABDOMEN.group_matrix()))
DICE_CE = {"dice": 1, "ce": 1}
EVERY = dict.fromkeys(LOSS_NAMES, 1.0)
SHAPE = (4, 4, 4)


def masks(*cases):
    return torch.stack([torch.from_numpy(ABDOMEN.labelled_mask(names)) for names in cases])


def batch(*cases, dtype=torch.float64, seed=0):
    """Logits of two heads, labels and masks; by default a liver case (lesions not annotated) and a spleen case."""
    labelled = masks(*(cases or (("liver",), ("spleen",))))
    generator = torch.Generator().manual_seed(seed)
    outputs = [torch.randn(len(labelled), 8, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2)]
    labels = torch.randint(0, 8, (len(labelled), *SHAPE), generator=generator)
    return [logits.to(dtype) for logits in outputs], labels, labelled


def loss(method, outputs, labels, labelled):
    return method.loss(outputs, None, labels, labelled, CONTEXT)


def total_and_gradients(method, outputs, labels, labelled):
    outputs = [logits.clone().requires_grad_() for logits in outputs]
    total = loss(method, outputs, labels, labelled).total
    total.backward()
    return [total.detach(), *(logits.grad for logits in outputs)]


@pytest.mark.parametrize("exclusion", [{}, {"dice": 0, "ce": 0.0, "lovasz": 0}])
@pytest.mark.parametrize(
    "options",
    [{}, {"absent_class": "skip"}, {"squared": True}, {"ce_on": "double_softmax_compat"}, {"unlabelled": "background"}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_dice_and_ce_alone_it_is_fedavg_bit_for_bit(exclusion, options, dtype):
    method = MargExc(marginal={"ce": 1, "dice": 1.0, "focal": 0}, exclusion=exclusion, **options)
    here, there = (total_and_gradients(m, *batch(dtype=dtype)) for m in (method, FedAvg(**options)))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_the_default_is_the_papers_best_three_with_weight_one():
    terms = loss(MargExc(), *batch())
    names = ["dice", "ce", "lovasz", "exclusion_dice", "exclusion_ce", "exclusion_lovasz"]
    assert list(terms.parts) == names
    assert torch.isclose(terms.total, sum(terms.parts.values()), rtol=1e-12)
    assert all(part > 0 for part in terms.parts.values())


def test_the_total_is_the_weighted_sum_and_what_has_no_weight_is_not_computed():
    parts = loss(MargExc(marginal=EVERY, exclusion=EVERY), *batch()).parts
    assert set(parts) == {*LOSS_NAMES, *(f"exclusion_{name}" for name in LOSS_NAMES)}
    assert set(parts) <= set(LOSS_PARTS), "a site keeps back what has no name there"
    few = loss(MargExc(marginal={"focal": 0.5, "ce": 2}, exclusion={"topk": 3, "dice": 0}), *batch())
    assert set(few.parts) == {"focal", "ce", "exclusion_topk"}
    expected = 0.5 * parts["focal"] + 2 * parts["ce"] + 3 * parts["exclusion_topk"]
    assert torch.isclose(few.total, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("focal_gamma", 1.0, "focal"),
        ("topk_fraction", 0.5, "topk"),
        ("exclusion_gamma", 1.0, "exclusion_focal"),
        ("exclusion_fraction", 0.5, "exclusion_topk"),
        ("penalised", "all", "exclusion_ce"),
    ],
)
def test_options_reach_the_loss(option, value, part):
    plain, changed = (
        loss(MargExc(marginal=EVERY, exclusion=EVERY, **options), *batch()).parts for options in ({}, {option: value})
    )
    assert not torch.isclose(plain[part], changed[part], rtol=1e-9)
    if option != "penalised":
        assert [name for name in plain if not torch.equal(plain[name], changed[name])] == [part]


def test_heads_weigh_two_to_one():
    outputs, labels, labelled = batch()
    alone = [loss(MargExc(), [logits], labels, labelled).total for logits in outputs]
    both = loss(MargExc(), outputs, labels, labelled).total
    assert torch.isclose(both, 2 / 3 * alone[0] + 1 / 3 * alone[1], rtol=1e-12)


def test_a_fully_annotated_site_trains_with_the_conventional_losses():
    everything = batch(ABDOMEN.classes, ABDOMEN.classes)
    terms = loss(MargExc(), *everything)
    assert all(value == 0 for name, value in terms.parts.items() if name.startswith("exclusion"))
    without = total_and_gradients(MargExc(exclusion={}), *everything)
    for found, expected in zip(total_and_gradients(MargExc(), *everything), without, strict=True):
        assert torch.equal(found, expected)


def test_unlabelled_as_background_excludes_nothing():
    terms = loss(MargExc(unlabelled="background"), *batch())
    assert all(value == 0 for name, value in terms.parts.items() if name.startswith("exclusion"))
    assert not torch.isclose(terms.parts["lovasz"], loss(MargExc(), *batch()).parts["lovasz"], rtol=1e-6)


def test_an_annotated_organ_does_not_push_its_own_lesion_away():
    (logits, _), labels, labelled = batch(("liver",))
    labels = torch.full_like(labels, ABDOMEN.index("liver"))
    x = logits.softmax(1).log().requires_grad_()
    loss(MargExc(marginal={"ce": 1e-9}, exclusion={"ce": 1}), [x], labels, labelled).parts["exclusion_ce"].backward()
    tumor, spleen = (x.grad[:, ABDOMEN.index(name)].mean() for name in ("liver_tumor", "spleen"))
    assert spleen > 0 > tumor, "what is taken from the spleen goes to liver and tumour"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("label", [0, 1, 3])
def test_patches_of_one_label_and_extreme_logits_stay_finite(label, dtype):
    outputs, labels, labelled = batch(dtype=dtype)
    for scale in (1, 1e4):
        scaled = [scale * logits for logits in outputs]
        found = total_and_gradients(
            MargExc(marginal=EVERY, exclusion=EVERY), scaled, torch.full_like(labels, label), labelled
        )
        assert all(tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("marginal", {"dize": 1}, "marginal"),
        ("marginal", {"dice": -1}, "marginal.dice"),
        ("marginal", {"dice": float("nan")}, "marginal.dice"),
        ("marginal", {"dice": "1"}, "marginal.dice"),
        ("marginal", {"dice": True}, "marginal.dice"),
        ("marginal", {}, "marginal"),
        ("marginal", {"dice": 0}, "marginal"),
        ("marginal", ["dice", "ce"], "marginal"),
        ("exclusion", {"marginal": 1}, "exclusion"),
        ("exclusion", {"ce": float("inf")}, "exclusion.ce"),
        ("focal_gamma", -0.1, "focal_gamma"),
        ("exclusion_gamma", "2", "exclusion_gamma"),
        ("topk_fraction", 0, "topk_fraction"),
        ("exclusion_fraction", 1.5, "exclusion_fraction"),
        ("penalised", "labelled", "penalised"),
        ("unlabelled", "ignored", "unlabelled"),
        ("absent_class", None, "absent_class"),
        ("ce_on", "softmax", "ce_on"),
    ],
)
def test_a_wrong_option_is_refused_with_its_name(field, value, named):
    with pytest.raises(ConfigError) as caught:
        MargExc(**{field: value})
    assert caught.value.field == f"args.method.{named}"
