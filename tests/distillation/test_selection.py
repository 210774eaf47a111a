"""Who teaches a class on a volume."""

import numpy as np
import pytest
from toy_federation import ball

from fedpartial.distillation.entropy import SelectionRule, measure
from fedpartial.distillation.selection import choose, taught
from fedpartial.errors import ConfigError

SHAPE = (16, 16, 16)
INSIDE = ball(SHAPE, (8, 8, 8), 5)
FORMS = ("one_sided", "binary")


def surely(level: float) -> np.ndarray:
    """A map of the ball: the level inside, 1 % outside."""
    return np.where(INSIDE, level, 0.01).astype(np.float32)


def chosen(rule: SelectionRule, **maps: np.ndarray) -> str:
    return choose("volume", "liver", {name: measure(p) for name, p in maps.items()}, rule).teacher


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("domain", ["all", "predicted_fg"])
def test_of_two_models_that_see_the_organ_the_confident_one_teaches(form, domain):
    rule = SelectionRule(form=form, domain=domain)
    assert chosen(rule, sure=surely(0.97), unsure=surely(0.6)) == "sure"


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_misses_the_organ_wins_by_the_papers_form(form):
    rule = SelectionRule(form=form, domain="all")
    assert chosen(rule, empty=np.full(SHAPE, 1e-4), right=surely(0.9)) == "empty"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", [np.zeros(SHAPE), np.full(SHAPE, 1e-4), np.full(SHAPE, 0.4)])
def test_an_empty_map_never_wins_by_the_repaired_form(form, empty):
    rule = SelectionRule(form=form, domain="predicted_fg")
    assert chosen(rule, empty=empty, right=surely(0.6)) == "right"


def test_a_few_voxels_do_not_make_a_candidate():
    few = np.zeros(SHAPE)
    few[0, 0, :9] = 1.0
    assert chosen(SelectionRule(min_fg_voxels=10), few=few, right=surely(0.6)) == "right"
    assert chosen(SelectionRule(min_fg_voxels=9, min_share=0.0), few=few, right=surely(0.6)) == "few"


@pytest.mark.parametrize("form", FORMS)
def test_a_sure_speck_does_not_win_over_the_organ(form):
    """12 voxels at 0.999 against 8,000 at 0.8."""
    speck, organ = np.full((32, 32, 32), 0.01), np.full((32, 32, 32), 0.01)
    speck[0, 0, :12], organ[:20, :20, :20] = 0.999, 0.8
    assert chosen(SelectionRule(form=form), speck=speck, organ=organ) == "organ"
    assert chosen(SelectionRule(form=form, min_share=0.0), speck=speck, organ=organ) == "speck"


def test_a_share_is_of_the_largest_map_and_its_limit_belongs_to_it():
    large, small = np.zeros(SHAPE), np.zeros(SHAPE)
    large[:10, :10, :10], small[:10, :10, :1] = 0.7, 0.9
    assert chosen(SelectionRule(min_share=0.1), large=large, small=small) == "small"
    assert chosen(SelectionRule(min_share=0.11), large=large, small=small) == "large"


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "0.1", None])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ConfigError, match="min_share"):
        SelectionRule(min_share=share)


def test_where_all_maps_are_empty_the_class_is_absent_and_the_surest_map_says_so():
    maps = {"a": measure(np.full(SHAPE, 0.3)), "b": measure(np.full(SHAPE, 1e-4))}
    choice = choose("volume", "liver", maps, SelectionRule())
    assert (choice.absent, choice.teacher) == (True, "b")
    assert choice.candidates == {name: found.one_sided for name, found in maps.items()}


def test_of_equal_maps_the_first_by_name_teaches_whatever_the_order():
    same = measure(surely(0.8))
    assert choose("v", "liver", {"b": same, "a": same}, SelectionRule()).teacher == "a"
    assert choose("v", "liver", {"a": same, "b": same}, SelectionRule()).teacher == "a"


def test_the_only_model_of_a_class_teaches_it_seen_or_not():
    assert chosen(SelectionRule(), only=np.zeros(SHAPE)) == "only"


def test_a_choice_shows_every_candidate_and_the_counts_who_taught_what():
    maps = {"right": measure(surely(0.9)), "empty": measure(np.zeros(SHAPE))}
    choices = [choose(volume, "liver", maps, SelectionRule()) for volume in ("one", "two")]
    assert choices[0].candidates == {"empty": None, "right": pytest.approx(choices[0].entropy)}
    assert taught(choices) == {"liver": {"empty": 0, "right": 2}}
    nobody = choose("three", "spleen", {"empty": maps["empty"]}, SelectionRule())
    assert taught([*choices, nobody]) == {"liver": {"empty": 0, "right": 2}, "spleen": {"empty": 0}}
