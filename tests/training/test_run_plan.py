"""The plan of a run: validated where it is written, strict where it arrives."""

from dataclasses import fields

import pytest

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.presets import PHANTOM
from fedpartial.training.plan import Plan
from fedpartial.training.schedule import Schedule

HEADS = {"job": "segviz", "preset": "phantom_segviz", "num_rounds": 3, "local_steps": 2}
GOOD = {"job": "fedavg", "preset": "phantom", "num_rounds": 3, "local_steps": 2}


def test_a_plan_knows_its_preset_and_schedule():
    plan = Plan(**GOOD)
    assert plan.config is PHANTOM
    assert plan.schedule == Schedule(num_rounds=3, local_steps=2)
    assert plan.schedule.total_steps == 6
    assert (plan.seed, plan.merge_lesions) == (0, False)


def test_merging_lesions_changes_the_label_space():
    assert Plan(**GOOD, merge_lesions=True).config.label_space.num_channels == 5


def test_a_registered_preset_is_found(tiny):
    assert tiny_plan().config is tiny is TINY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", "huge"),
        ("preset", ""),
        ("num_rounds", -1),
        ("num_rounds", True),
        ("num_rounds", 2.0),
        ("num_rounds", "3"),
        ("num_rounds", None),
        ("local_steps", 0),
        ("local_steps", None),
        ("seed", -1),
        ("seed", False),
        ("seed", 0.5),
        ("resumed_jobs", "job"),
        ("resumed_jobs", "../../startup"),
        ("resumed_jobs", None),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(field, value):
    with pytest.raises(ConfigError) as caught:
        Plan(**{**GOOD, field: value})
    assert caught.value.field == field
    assert caught.value.got == value


def test_a_plan_survives_the_message():
    plan = Plan(**GOOD, seed=5, merge_lesions=True, resumed_jobs=["7a2c6f0e-1b7d-4a86-9c43-0123456789ab"])
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("key", [field.name for field in fields(Plan)])
def test_a_message_without_a_field_is_refused(key):
    given = Plan(**GOOD).to_dict()
    assert len(given) == 17
    del given[key]
    with pytest.raises(ConfigError, match=key):
        Plan.from_dict(given)


@pytest.mark.parametrize("given", [None, [], "plan", {**Plan(**GOOD).to_dict(), "lr": 1.0}])
def test_a_message_of_another_make_is_refused(given):
    with pytest.raises(ConfigError):
        Plan.from_dict(given)


def test_a_stored_plan_of_an_earlier_version_has_the_defaults():
    given = Plan(**GOOD).to_dict()
    del given["exchange"], given["finetune_steps"]
    assert Plan.from_stored(given) == Plan(**GOOD)
    with pytest.raises(ConfigError, match="preset"):
        Plan.from_stored({name: value for name, value in given.items() if name != "preset"})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"exchange": "heads"}, "one of all, trunk"),
        ({"finetune_steps": 5}, "no site has a head"),
        ({"exchange": "trunk"}, "the network of preset 'phantom' has no private heads"),
        ({"preset": "phantom_segviz", "exchange": "trunk", "finetune_steps": -1}, "at least 0"),
    ],
)
def test_an_exchange_that_cannot_be_is_refused(change, expected):
    with pytest.raises(ConfigError, match=expected):
        Plan(**GOOD | change)


def test_private_heads_follow_from_the_exchange():
    assert not Plan(**GOOD).private_heads
    assert all(
        Plan(**HEADS, exchange=e).private_heads for e in ("trunk", "trunk_without_statistics", "trunk_without_norms")
    )
