"""Names of structures, and the class of a preset that each belongs to."""

import pytest

from fedpartial.datasets.structures import class_names, structure_of
from fedpartial.errors import ConfigError
from fedpartial.presets import ABDOMEN, ORGANS, SIDED_ORGANS


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("Right Kidney", "kidney_right"),
        ("kidney_L", "kidney_left"),
        ("left adrenal gland", "adrenal_gland_left"),
        ("gall bladder", "gallbladder"),
        ("liver cancer", "liver_tumor"),
        ("pancreas-lesion", "pancreas_tumor"),
        ("Kidney Tumours", "kidney_tumor"),
        ("prostate/uterus", "prostate_uterus"),
        ("postcava", "vena_cava"),
        ("background", "background"),
        ("Leber", None),
        ("tumor", None),
    ],
)
def test_names_of_data_sets_are_understood(name, structure):
    assert structure_of(name) == structure


def test_a_tumor_alone_is_of_the_one_organ_with_lesions():
    assert structure_of("cancer", ("pancreas", "cancer", "spleen")) == "pancreas_tumor"
    assert structure_of("Cyst", ("kidney", "tumor", "Cyst")) == "kidney_cyst"
    assert structure_of("tumor", ("liver", "kidney", "tumor")) is None


@pytest.mark.parametrize("space", [ORGANS, SIDED_ORGANS])
def test_a_lesion_alone_is_not_its_organ(space):
    assert class_names({1: "spleen", 2: "liver_tumor"}, {}, space, "p") == {1: "spleen", 2: "background"}
    assert class_names({1: "liver", 2: "liver_tumor"}, {}, space, "p") == {1: "liver", 2: "liver_tumor"}
    assert class_names({1: "spleen", 2: "kidney_cyst"}, {}, space, "p") == {1: "spleen", 2: "background"}


def test_one_kidney_is_not_both():
    assert class_names({1: "liver", 2: "kidney_left"}, {}, ABDOMEN, "abdomen") == {1: "liver", 2: "background"}
    both = class_names({1: "kidney_right", 2: "kidney_left", 3: "kidney_cyst"}, {}, ABDOMEN, "abdomen")
    assert set(both.values()) == {"kidney"}


def test_given_classes_win_and_are_checked():
    assert class_names({1: "liver", 2: "aorta"}, {2: "liver_tumor"}, ABDOMEN, "abdomen")[2] == "liver_tumor"
    with pytest.raises(ConfigError, match="--labels 1=livre, preset abdomen"):
        class_names({}, {1: "livre"}, ABDOMEN, "abdomen")


def test_data_without_a_class_of_the_preset_are_refused():
    with pytest.raises(ConfigError, match="data that outline aorta, stomach"):
        class_names({1: "stomach", 2: "aorta"}, {}, ABDOMEN, "abdomen")
