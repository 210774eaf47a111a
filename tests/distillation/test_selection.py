"""Who teaches a class on a volume."""

import numpy as np
import pytest
from toy_federation import ball

from fedpartial.distillation.entropy import SelectionRule, measure
from fedpartial.distillation.selection import choose, taught

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
    assert chosen(SelectionRule(min_fg_voxels=9), few=few, right=surely(0.6)) == "few"


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
    assert choices[0].to_dict()["candidates"] == {"empty": None, "right": pytest.approx(choices[0].entropy)}
    assert taught(choices) == {"liver": {"empty": 0, "right": 2}}
