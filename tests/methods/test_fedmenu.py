"""Fed-MENU's objective: two passes, each for its own parts of the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federation import TINY
from fedpartial.errors import ConfigError
from fedpartial.losses.smoothed import organ_against_rest
from fedpartial.methods.base import RoundContext
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.networks.build import build_network
from fedpartial.networks.menu import AUXILIARY, WHOLE, OrganOutput
from fedpartial.presets import SIDED_ORGANS, MenuConfig
from fedpartial.training.optimizer import build_optimizer
from fedpartial.training.reported import LOSS_PARTS

SMALL = replace(TINY, label_space=SIDED_ORGANS, network=MenuConfig(channels=(2, 4)))
GROUPS = torch.from_numpy(SIDED_ORGANS.group_matrix())


def context(pass_number: int) -> RoundContext:
    return RoundContext(round_number=0, num_rounds=1, groups=GROUPS, pass_number=pass_number)


def labelled(*cases: tuple[str, ...]) -> Tensor:
    return torch.stack([torch.from_numpy(SIDED_ORGANS.labelled_mask(names)) for names in cases])


def labels(*channels: int) -> Tensor:
    """A cube of one class in every case."""
    result = torch.zeros(len(channels), 16, 16, 16, dtype=torch.uint8)
    for case, channel in enumerate(channels):
        result[case, 4:12, 4:12, 4:12] = channel
    return result


def image(cases: int) -> Tensor:
    return torch.randn(cases, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def step(net, optimizer, given: Tensor, masks: Tensor, method: FedMenu | None = None) -> dict[str, float]:
    """Both passes as the trainer makes them; the parts of the loss."""
    method, parts = method or FedMenu(), {}
    for number in range(method.passes()):
        outputs = net.train_pass(image(len(given)), masks, number)
        terms = method.loss(outputs, None, given, masks, context(number))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        parts |= {name: float(value.detach()) for name, value in terms.parts.items()}
    return parts


def test_it_needs_neither_teacher_nor_reference_nor_heads():
    method = FedMenu()
    assert (method.needs_teacher(context(0)), method.needs_reference(), method.needs_heads()) == (False,) * 3
    assert method.passes() == 2


def test_the_first_pass_adds_marginal_and_exclusion_losses():
    logits = torch.randn(2, 6, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    masks, given = labelled(("liver",), ("kidney",)), labels(1, 5)
    terms = FedMenu().loss((logits,), None, given, masks, context(WHOLE))
    assert set(terms.parts) == {"dice", "ce", "exclusion_dice", "exclusion_ce"}
    assert all(value > 0 for value in terms.parts.values())
    assert terms.total.item() == pytest.approx(sum(value.item() for value in terms.parts.values()))
    alone = FedMenu(exclusion_weight=0.0).loss((logits,), None, given, masks, context(WHOLE))
    assert alone.total.item() == pytest.approx((terms.parts["dice"] + terms.parts["ce"]).item())


def test_a_fully_annotated_case_excludes_nothing():
    logits = torch.zeros(1, 6, 16, 16, 16)
    terms = FedMenu().loss((logits,), None, labels(3), labelled(SIDED_ORGANS.classes), context(WHOLE))
    assert (terms.parts["exclusion_dice"].item(), terms.parts["exclusion_ce"].item()) == (0, 0)


def test_the_second_pass_sums_over_organs_and_levels():
    """Both sides of the kidney are one organ; a case counts for the organs that it annotates."""
    generator = torch.Generator().manual_seed(0)
    masks, given = labelled(("liver", "kidney"), ("kidney",)), labels(4, 5)
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    kidney = torch.randn(2, 3, 2, 16, 16, 16, generator=generator)
    liver = torch.randn(1, 3, 2, 16, 16, 16, generator=generator)
    outputs = (
        OrganOutput(channels=(1,), cases=first, logits=liver),
        OrganOutput(channels=(4, 5), cases=both, logits=kidney),
    )
    expected = sum(organ_against_rest(kidney[:, level], given > 0) for level in range(3))
    expected += sum(organ_against_rest(liver[:, level], torch.zeros(1, 16, 16, 16) > 0) for level in range(3))
    terms = FedMenu(auxiliary_weight=0.5).loss(outputs, None, given, masks, context(AUXILIARY))
    assert terms.parts["auxiliary"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms.total.item() == pytest.approx(0.5 * expected.item(), rel=1e-6)


def test_a_class_that_the_case_does_not_annotate_is_no_part_of_its_organ():
    """The left kidney of a case that names the right one only: its voxels are the rest."""
    logits = torch.randn(1, 1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = (OrganOutput(channels=(4, 5), cases=torch.tensor([True]), logits=logits),)
    terms = FedMenu().loss(outputs, None, labels(5), labelled(("kidney_right",)), context(AUXILIARY))
    expected = organ_against_rest(logits[:, 0], torch.zeros(1, 16, 16, 16) > 0)
    assert terms.parts["auxiliary"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_encoders_of_unannotated_organs_do_not_move_at_all():
    """No gradient, so no weight decay and no momentum either."""
    net = build_network(SMALL, seed=0).train()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = build_optimizer(dict(net.named_parameters()), SMALL.optimizer)
    for _ in range(2):
        step(net, optimizer, labels(1, 2), labelled(("liver",), ("spleen",)))
    moved = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    parts = {".".join(name.split(".")[:2]) for name in moved}
    assert {part for part in parts if part.startswith("encoders.")} == {"encoders.liver", "encoders.spleen"}
    assert {"decoder.blocks", "decoder.output", "agd.levels"} <= parts
    assert "decoder.side_outputs" not in parts
    assert {name for name in optimizer.state() if name.startswith("encoders.")} <= moved


def test_both_losses_fall():
    net = build_network(SMALL, seed=0).train()
    optimizer = build_optimizer(dict(net.named_parameters()), SMALL.optimizer)
    optimizer.lr = 0.05
    masks, given = labelled(("liver",), ("kidney",)), labels(1, 4)
    found = [step(net, optimizer, given, masks) for _ in range(12)]
    assert set(found[0]) == {"dice", "ce", "exclusion_dice", "exclusion_ce", "auxiliary"} <= set(LOSS_PARTS)
    assert found[-1]["ce"] < 0.85 * found[0]["ce"]
    assert found[-1]["auxiliary"] < 0.9 * found[0]["auxiliary"]


@pytest.mark.parametrize("name", ["marginal_weight", "exclusion_weight", "auxiliary_weight"])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "1", True])
def test_a_wrong_weight_is_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        FedMenu(**{name: value})
    assert caught.value.field == f"args.method.{name}"
