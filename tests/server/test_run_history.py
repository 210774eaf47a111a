"""What the server remembers: scores, the best model, remaining time, and the rounds of the report."""

from __future__ import annotations

import pytest

from fedpartial.evaluation.record import load_schema
from fedpartial.server import run_history
from fedpartial.server.run_history import RunHistory, macro_dice


@pytest.fixture
def clock(monkeypatch):
    """Time stands still until the test moves it: ``clock[0] += 10``."""
    now = [1000.0]
    monkeypatch.setattr(run_history.time, "monotonic", lambda: now[0])
    return now


def metrics(loss=1.0, **val_dice) -> dict:
    facts = {"device": "cpu", "precision": "float32", "source": "phantom", "setup_seconds": 4.0, "num_training": 16}
    return {"loss": loss, "dice": 0.5, "val_dice": val_dice, "seconds": 5.0, "bytes_down": 100, **facts}


def play(history: RunHistory, number: int, scores: dict[str, dict]) -> float | None:
    """One round in which each site reports the Dice of the incoming model."""
    history.start_round(number)
    for site, val_dice in scores.items():
        history.add_update(site, metrics(**val_dice), bytes_up=50)
    dice = history.score_incoming()
    history.finish_round()
    return dice


# --- macro Dice --------------------------------------------------------------------------------------


def test_macro_dice_is_the_mean_over_classes():
    """METHODS 1.4: liver 2, pancreas 2, kidney 2, spleen 1 = each of the seven classes once."""
    scores = {
        "liver": {"liver": 0.9, "liver_tumor": 0.5},
        "spleen": {"spleen": 0.8},
        "pancreas": {"pancreas": 0.6, "pancreas_tumor": 0.2},
        "kidney": {"kidney": 0.9, "kidney_tumor": 0.3},
    }
    expected = (2 * 0.7 + 2 * 0.4 + 2 * 0.6 + 0.8) / 7
    assert macro_dice(scores) == pytest.approx(expected)


def test_a_class_of_two_sites_counts_once():
    assert macro_dice({"a": {"liver": 1.0}, "b": {"liver": 0.0}, "c": {"spleen": 1.0}}) == pytest.approx(0.75)


def test_the_order_of_the_sites_changes_no_bit():
    scores = {name: {"liver": value} for name, value in zip("abc", (0.1, 0.2, 0.3), strict=True)}
    assert macro_dice(scores) == macro_dice(dict(reversed(scores.items())))


@pytest.mark.parametrize("scores", [{}, {"a": {}}, {"a": {}, "b": {}}])
def test_nothing_scored_is_none(scores):
    assert macro_dice(scores) is None


def test_a_dice_of_zero_is_a_score():
    assert macro_dice({"a": {"liver": 0.0}}) == 0.0


# --- which model a score belongs to -------------------------------------------------------------------


def test_the_score_belongs_to_the_model_of_the_round_before():
    history = RunHistory(3)
    assert play(history, 0, {"a": {}, "b": {}}) is None
    assert play(history, 1, {"a": {"liver": 0.4}, "b": {"spleen": 0.2}}) == pytest.approx(0.3)
    assert play(history, 2, {"a": {"liver": 0.6}, "b": {"spleen": 0.6}}) == pytest.approx(0.6)
    assert [r.val_dice for r in history.rounds] == [pytest.approx(0.3), pytest.approx(0.6), None]
    assert history.rounds[0].site_dice == {"a": 0.4, "b": 0.2}
    history.set_score(history.rounds[-1], {"a": {"liver": 0.5}, "b": {"spleen": 0.7}})
    assert history.rounds[-1].val_dice == pytest.approx(0.6)
    assert history.rounds[-1].site_dice == {"a": 0.5, "b": 0.7}


def test_scores_of_the_initial_weights_belong_to_no_round():
    history = RunHistory(2)
    assert play(history, 0, {"a": {"liver": 0.9}}) is None
    assert history.rounds[0].val_dice is None


def test_a_site_that_scored_nothing_does_not_count():
    history = RunHistory(2)
    play(history, 0, {"a": {}, "b": {}})
    assert play(history, 1, {"a": {"liver": 0.5}, "b": {}}) == 0.5
    play_none = RunHistory(2)
    play(play_none, 0, {"a": {}})
    assert play(play_none, 1, {"a": {}}) is None


def test_a_score_of_zero_everywhere_is_recorded():
    history = RunHistory(2)
    play(history, 0, {"a": {}})
    assert play(history, 1, {"a": {"liver": 0.0}}) == 0.0


# --- the best model -----------------------------------------------------------------------------------


def test_the_best_model_and_its_round():
    history = RunHistory(4)
    assert not history.is_best(None, 0)
    assert history.is_best(0.3, 1)
    assert not history.is_best(0.2, 2)
    assert (history.best_dice, history.best_round) == (0.3, 1)
    assert history.is_best(0.5, 3)
    assert (history.best_dice, history.best_round) == (0.5, 3)


def test_the_later_model_wins_a_tie():
    history = RunHistory(4)
    assert [history.is_best(0.4, number) for number in (1, 2, 3)] == [True] * 3
    assert history.best_round == 3


def test_the_final_aggregate_can_be_the_best():
    """Upstream U13: the last aggregate was never scored."""
    history = RunHistory(2)
    play(history, 0, {"a": {}})
    history.is_best(play(history, 1, {"a": {"liver": 0.4}}), 1)
    final = history.set_score(history.rounds[-1], {"a": {"liver": 0.7}})
    assert history.is_best(final, 2)
    assert (history.best_dice, history.best_round) == (0.7, 2)


def test_a_model_that_scores_zero_can_be_the_first_best():
    history = RunHistory(2)
    assert history.is_best(0.0, 1)
    assert not history.is_best(None, 2)
    assert history.best_round == 1


# --- time ---------------------------------------------------------------------------------------------


def test_remaining_time_counts_site_updates(clock):
    history = RunHistory(5)
    assert history.remaining_seconds(2) is None
    history.start_round(0)
    clock[0] += 30
    history.add_update("a", metrics(), 50)
    assert history.remaining_seconds(2) == pytest.approx(30 * 9)
    clock[0] += 10
    history.add_update("b", metrics(), 50)
    assert history.remaining_seconds(2) == pytest.approx(40 / 2 * 8)


def test_remaining_time_is_never_negative(clock):
    history = RunHistory(1)
    for number in range(2):
        history.start_round(number)
        clock[0] += 5
        history.add_update("a", metrics(), 50)
    assert history.remaining_seconds(1) == 0
    assert history.remaining_seconds(0) == 0


def test_seconds_of_a_round(clock):
    history = RunHistory(2)
    history.start_round(0)
    clock[0] += 12.5
    assert history.finish_round() == 12.5
    assert history.rounds[0].seconds == 12.5


# --- facts and report ---------------------------------------------------------------------------------


def test_first_facts_keep_the_setup_time_of_the_first_round():
    history = RunHistory(2)
    history.start_round(0)
    history.add_update("a", {**metrics(), "setup_seconds": 60.0}, 50)
    history.start_round(1)
    history.add_update("a", {**metrics(), "setup_seconds": 0.1}, 50)
    assert history.first_facts["a"]["setup_seconds"] == 60.0
    assert history.facts["a"]["setup_seconds"] == 0.1


def test_rounds_of_the_report_fit_its_schema():
    from jsonschema import Draft202012Validator

    history = RunHistory(2)
    play(history, 0, {"b": {}, "a": {}})
    play(history, 1, {"b": {"spleen": 0.2}, "a": {"liver": 0.4, "liver_tumor": 0.6}})
    rounds = history.report_rounds()
    schema = load_schema()
    part = {"$defs": schema["$defs"], **schema["properties"]["rounds"]}
    assert not list(Draft202012Validator(part).iter_errors(rounds))
    assert [r["round"] for r in rounds] == [1, 2]
    assert list(rounds[0]["sites"]) == ["a", "b"]
    assert (rounds[0]["bytes_up"], rounds[0]["bytes_down"]) == (100, 200)
    assert rounds[0]["val_dice"] == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert rounds[0]["sites"]["a"] == {
        "loss": 1.0,
        "val_dice": 0.5,
        "seconds": 5.0,
        "bytes_up": 50,
        "bytes_down": 100,
    }
    assert rounds[1]["val_dice"] is None
    assert rounds[1]["sites"]["a"]["val_dice"] is None
