"""What every method promises, and the limit in which each one is another."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import fedpartial.methods
from federation import TINY_SUPERVISED
from fedpartial.errors import ConfigError
from fedpartial.methods.base import RoundContext
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedprox import FedProx
from fedpartial.methods.margexc import MargExc
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.presets import ABDOMEN

METHODS = (FedAvg, FedProx, ConDistFL, MargExc)
NAIVE = FedAvg(unlabelled="background")
OBJECTIVES = {
    **{cls.__name__: cls() for cls in METHODS},
    "naive FedAvg": NAIVE,
    "naive FedProx": FedProx(supervised=NAIVE),
    "naive ConDistFL": ConDistFL(supervised=NAIVE),
    "naive MargExc": MargExc(unlabelled="background"),
}
"""Every method, with the marginal loss and with unlabelled classes as background."""
SHAPE = (4, 4, 4)
GROUPS = torch.from_numpy(ABDOMEN.group_matrix())
PARAMETERS = (torch.ones(2, dtype=torch.float64),)
REFERENCE = (torch.zeros(2, dtype=torch.float64),)
CONTEXT = RoundContext(round_number=1, num_rounds=3, groups=GROUPS, parameters=PARAMETERS, reference=REFERENCE)
"""A network of two parameters at a distance of 1 each from the global model's."""
LIVER, SPLEEN = (torch.from_numpy(ABDOMEN.labelled_mask(names)) for names in (("liver", "liver_tumor"), ("spleen",)))


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES.keys())
def method(request):
    return request.param


def batch(seed: int = 0):
    """Logits (2 heads, float64), teacher, labels and masks of a liver case and a spleen case."""
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, 8, *SHAPE, dtype=torch.float64, generator=generator) for _ in range(3)]
    labels = torch.zeros(2, *SHAPE, dtype=torch.long)
    labels[0, :2], labels[0, 0, 0], labels[1, 1:3] = 1, 2, 3
    return logits[:2], logits[2], labels, torch.stack([LIVER, SPLEEN])


def total(method, outputs, teacher, labels, labelled) -> torch.Tensor:
    return method.loss(outputs, teacher, labels, labelled, CONTEXT).total


def test_every_method_of_the_room_is_checked_here():
    modules = [
        importlib.import_module(f"fedpartial.methods.{m.name}")
        for m in pkgutil.iter_modules(fedpartial.methods.__path__)
    ]
    found = {c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if hasattr(c, "needs_teacher")}
    elsewhere = {"SegViz", "FedMenu", "Mmds"}  # other outputs: test_segviz.py, test_fedmenu.py, test_mmds.py
    assert {c.__name__ for c in found} - {"Method", "Objective"} - elsewhere == {m.__name__ for m in METHODS}


def test_the_loss_is_a_finite_scalar_and_names_its_parts(method):
    terms = method.loss(*batch(), CONTEXT)
    assert terms.total.shape == ()
    assert torch.isfinite(terms.total)
    assert {"dice", "ce"} <= set(terms.parts)
    assert all(torch.isfinite(torch.as_tensor(part)) for part in terms.parts.values())


def test_extreme_logits_stay_finite(method):
    outputs, teacher, labels, labelled = batch()
    outputs = [(1e4 * logits.float()).requires_grad_() for logits in outputs]
    loss = total(method, outputs, 1e4 * teacher.float(), labels, labelled)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(logits.grad).all() for logits in outputs)


def test_a_gradient_reaches_every_parameter_of_the_network(method):
    network = build_network(TINY_SUPERVISED, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 16, 16, 16, generator=generator)
    labels = torch.randint(0, 3, (2, 16, 16, 16), generator=generator)
    teacher = torch.randn(2, 8, 16, 16, 16, generator=generator)
    total(method, training_outputs(network(image)), teacher, labels, torch.stack([LIVER, SPLEEN])).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert any("deep_supervision_heads" in name for name, _ in network.named_parameters())


def test_no_gradient_reaches_the_teacher(method):
    outputs, teacher, labels, labelled = batch()
    outputs[0].requires_grad_()
    teacher.requires_grad_()
    total(method, outputs, teacher, labels, labelled).backward()
    assert outputs[0].grad is not None
    assert teacher.grad is None


def test_each_case_has_its_own_mask(method):
    """Labels that a case does not annotate are as good as background; those that it does are not."""
    outputs, teacher, labels, labelled = batch()
    expected = total(method, outputs, teacher, labels, labelled)
    foreign, own = labels.clone(), labels.clone()
    foreign[0, 3, 3], foreign[1, 3, 3] = 3, 1  # a spleen in the liver's case and the other way round
    own[0, 3, 3] = 1
    assert torch.equal(total(method, outputs, teacher, foreign, labelled), expected)
    assert not torch.isclose(total(method, outputs, teacher, own, labelled), expected)
    assert not torch.isclose(total(method, outputs, teacher, labels, labelled.flip(0)), expected)


def test_the_order_of_the_cases_does_not_matter(method):
    outputs, teacher, labels, labelled = batch()
    swapped = [logits.flip(0) for logits in outputs], teacher.flip(0), labels.flip(0), labelled.flip(0)
    assert torch.isclose(total(method, *swapped), total(method, outputs, teacher, labels, labelled), rtol=1e-12)


def test_supervision_weighs_the_heads_two_to_one(method):
    (first, second), _, labels, labelled = batch()
    alone = [total(method, [logits], None, labels, labelled) for logits in (first, second)]
    both = total(method, [first, second], None, labels, labelled)
    assert torch.isclose(both, 2 / 3 * alone[0] + 1 / 3 * alone[1], rtol=1e-12)


def test_without_a_teacher_and_a_reference_every_method_is_its_supervision(method):
    outputs, _, labels, labelled = batch()
    nothing = RoundContext(round_number=1, num_rounds=3, groups=GROUPS)
    supervised = getattr(method, "supervised", method)
    loss = method.loss(outputs, None, labels, labelled, nothing)
    assert torch.equal(loss.total, supervised.loss(outputs, None, labels, labelled, nothing).total)
    assert set(loss.parts) == set(supervised.loss(outputs, None, labels, labelled, nothing).parts) >= {"dice", "ce"}


def test_distillation_looks_at_the_full_resolution_head_only():
    outputs, teacher, labels, labelled = batch()
    method = ConDistFL()
    term = method.loss(outputs, teacher, labels, labelled, CONTEXT).parts["condist"]
    alone = method.loss(outputs[:1], teacher, labels, labelled, CONTEXT).parts["condist"]
    assert torch.equal(term, alone)
    added = total(method, outputs, teacher, labels, labelled) - total(method, outputs, None, labels, labelled)
    assert torch.isclose(added, method.weight(CONTEXT) * term, rtol=1e-9)
    assert method.weight(CONTEXT) == pytest.approx(0.505), "round 1 of 0..2, half-way from 0.01 to 1"


def test_the_weights_of_the_two_supervised_terms_are_used():
    outputs, _, labels, labelled = batch()
    parts = FedAvg().loss(outputs, None, labels, labelled, CONTEXT).parts
    dice, ce, odd = (
        total(FedAvg(dice_weight=d, ce_weight=c), outputs, None, labels, labelled)
        for d, c in ((1, 0), (0, 1), (3, 0.5))
    )
    assert torch.isclose(dice, parts["dice"])
    assert torch.isclose(ce, parts["ce"])
    assert torch.isclose(odd, 3 * parts["dice"] + 0.5 * parts["ce"])


@pytest.mark.parametrize(
    ("option", "other"),
    [("absent_class", "skip"), ("squared", True), ("ce_on", "double_softmax_compat")],
)
def test_options_of_the_supervision_reach_the_loss(option, other):
    """Class 2 is absent from the batch, so that every option makes a difference."""
    outputs, _, labels, labelled = batch()
    labels = torch.where(labels == 2, 1, labels)
    changed = FedAvg(**{option: other})
    plain, different = (total(m, outputs, None, labels, labelled) for m in (FedAvg(), changed))
    within = total(ConDistFL(supervised=changed), outputs, None, labels, labelled)
    assert not torch.isclose(plain, different)
    assert torch.equal(within, different)


@pytest.mark.parametrize(
    ("option", "other"), [("temperature", 2.0), ("denominator", "squared"), ("conditional", "upstream")]
)
def test_options_of_the_distillation_reach_the_loss(option, other):
    plain, different = (total(m, *batch()) for m in (ConDistFL(), ConDistFL(**{option: other})))
    assert not torch.isclose(plain, different, rtol=1e-9)


@pytest.mark.parametrize(
    ("cls", "option", "value"),
    [
        (FedAvg, "absent_class", "ignore"),
        (FedAvg, "ce_on", "probabilities"),
        (FedAvg, "ce_on", None),
        (ConDistFL, "denominator", "Linear"),
        (ConDistFL, "conditional", ""),
        (ConDistFL, "temperature", 0),
        (ConDistFL, "temperature", -0.5),
        (ConDistFL, "temperature", float("nan")),
        (FedAvg, "unlabelled", "ignore"),
        (FedProx, "mu", -0.01),
        (FedProx, "mu", float("nan")),
        (FedProx, "mu", float("inf")),
    ],
)
def test_a_wrong_option_is_refused_with_its_name(cls, option, value):
    with pytest.raises(ConfigError) as caught:
        cls(**{option: value})
    assert caught.value.field == f"args.method.{option}"
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("cls", METHODS)
def test_an_unknown_option_is_refused(cls):
    with pytest.raises(TypeError, match="tempature"):
        cls(tempature=1.0)
