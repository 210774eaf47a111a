"""Personalised inference: every case of two models at one voxel, with stand-ins that give fixed logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedpartial.labels import LabelSpace, Organ
from fedpartial.networks.fusion import LOG_ODDS
from fedpartial.networks.personal import PERSONAL, decide_personal, lesions_in_organs, personal_network
from fedpartial.networks.residual_unet import ABSENT, scores
from fedpartial.networks.universal import organ_outputs

SPACE = LabelSpace(organs=(Organ(name="liver", lesions=("liver_tumor",)), Organ(name="spleen"), Organ(name="aorta")))
ALL = SPACE.classes
LESIONS = lesions_in_organs(SPACE)


class Fixed(nn.Module):
    """A universal network that says the same of every voxel: -1 but for the given logits of its classes."""

    def __init__(self, classes, **logits: float):
        super().__init__()
        self.head_channels = tuple(SPACE.index(name) for name in classes)
        odds = [torch.full((1, 1, 1, 1), float(logits.pop(name, -1.0))) for name in classes]
        assert not logits, "a logit of a class that it has not"
        organs = organ_outputs(SPACE, tuple(classes))
        shown = [own if organ is None else own + odds[organ].relu() for own, organ in zip(odds, organs, strict=True)]
        self.answer = scores(shown, self.head_channels, SPACE.num_channels)

    def forward(self, image: Tensor) -> Tensor:
        return self.answer.expand(len(image), -1, *image.shape[2:])


def label(local: Fixed, global_: Fixed, lesions=LESIONS) -> str:
    network = personal_network(local, global_, SPACE)
    assert not network.training
    found = network(torch.zeros(1, 1, 2, 3, 4))
    assert found.shape == (1, 2 * SPACE.num_channels, 2, 3, 4)
    (channel,) = decide_personal(found[0], lesions).unique().tolist()
    return SPACE.channels[channel]


@pytest.mark.parametrize(
    ("own", "local", "global_", "expected"),
    [
        # nobody, one of them, both of the same mind
        (("spleen",), {}, {}, "background"),
        (("spleen",), {"spleen": 1}, {}, "spleen"),
        (("spleen",), {}, {"aorta": 1}, "aorta"),
        (("spleen",), {"spleen": 1}, {"spleen": 9}, "spleen"),
        # a class of the local model is never the global one's to give
        (("spleen",), {}, {"spleen": 9}, "background"),
        (("spleen",), {}, {"spleen": 9, "aorta": 1}, "aorta"),
        # a conflict: local wins, however sure the global model is
        (("spleen",), {"spleen": 0.1}, {"aorta": 9}, "spleen"),
        (("spleen",), {"spleen": 0.1}, {"liver": 9, "liver_tumor": 9}, "spleen"),
        # between two local classes and between two global ones the surer
        (("spleen", "aorta"), {"spleen": 1, "aorta": 2}, {}, "aorta"),
        (("aorta",), {}, {"liver": 1, "spleen": 2}, "spleen"),
        # a lesion of the global model: in an organ of its own, without it, and beside a local class
        (("aorta",), {}, {"liver": 2, "liver_tumor": 1}, "liver_tumor"),
        (("aorta",), {}, {"liver": 2, "liver_tumor": -0.5}, "liver"),
        # the local model answers for the organ, the global one for its lesion
        (("liver",), {"liver": 2}, {"liver": 3, "liver_tumor": 1}, "liver_tumor"),
        (("liver",), {"liver": 2}, {"liver": 3, "liver_tumor": -0.5}, "liver"),
        (("liver",), {}, {"liver": 3, "liver_tumor": -0.5}, "background"),
        (("liver",), {}, {"liver": 3, "liver_tumor": 0.5}, "liver_tumor"),
        (("liver",), {}, {"liver": 3, "liver_tumor": 1, "spleen": 2}, "spleen"),
        # the local model has the lesion and not the organ, or both
        (("liver_tumor",), {"liver_tumor": 1}, {"liver": 3}, "liver_tumor"),
        (("liver_tumor",), {}, {"liver": 3, "liver_tumor": 5}, "liver"),
        (("liver", "liver_tumor"), {"liver": 3, "liver_tumor": -0.5}, {"liver_tumor": 9}, "liver"),
        (("liver", "liver_tumor"), {"liver": 3, "liver_tumor": 0.5}, {"aorta": 9}, "liver_tumor"),
    ],
)
def test_who_answers(own, local, global_, expected):
    assert label(Fixed(own, **local), Fixed(ALL, **global_)) == expected


def test_for_scores_a_local_organ_keeps_the_voxels_of_its_lesion():
    local, global_ = Fixed(("liver",), liver=2), Fixed(ALL, liver=3, liver_tumor=1)
    assert label(local, global_, {}) == "liver"
    assert label(Fixed(("liver",)), global_, {}) == "liver_tumor", "the rest is the same"


def test_a_local_model_with_every_class_answers_alone():
    local, global_ = Fixed(ALL, aorta=0.1), Fixed(ALL, spleen=9, liver=9)
    assert label(local, global_) == "aorta"
    assert label(Fixed(ALL), global_) == "background"
    assert personal_network(local, global_, SPACE).adds_nothing
    assert not personal_network(Fixed(("aorta",)), global_, SPACE).adds_nothing


def test_a_global_model_without_some_classes_has_none_of_them():
    assert label(Fixed(("liver",), liver=-1), Fixed(("liver", "aorta"), aorta=-1)) == "background"
    found = personal_network(Fixed(("liver",)), Fixed(("aorta",), aorta=1), SPACE)(torch.zeros(1, 1, 1, 1, 1)).flatten()
    rest = found[SPACE.num_channels :].tolist()
    assert rest == [0.0, ABSENT, ABSENT, ABSENT, 1.0]


def test_the_rule_stands_where_a_fusion_does():
    found = personal_network(Fixed(("liver",), liver=2), Fixed(ALL, liver=3, liver_tumor=1), SPACE)
    assert PERSONAL.network(found) is found
    assert PERSONAL.decide(SPACE)(found(torch.zeros(1, 1, 1, 1, 1))[0]).item() == SPACE.index("liver")
    assert {PERSONAL.rule} & {LOG_ODDS.rule, "uncertainty", "per-head"} == set()


def test_lesions_and_their_organs():
    assert LESIONS == {2: 1}
    assert lesions_in_organs(SPACE.merged) == {}
