"""Summaries: undefined values leave the mean and the n, and never become 0 or NaN."""

from __future__ import annotations

import json

import pytest

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.summary import macro_mean, summarise
from fedpartial.presets import ABDOMEN


def case(dice: float | None, status: str = "scored", *, name: str = "liver", hd95=None, leakage=None) -> CaseScores:
    numbers = {"dice": dice, "hd95_mm": hd95, "assd_mm": None, "leakage": leakage}
    return CaseScores(**{field: {name: value} for field, value in numbers.items()}, status={name: status})


def test_mean_sd_and_n_leave_out_undefined_values():
    cases = [case(0.5, hd95=4.0, leakage=0.1), case(0.9, leakage=0.3), case(None, "absent"), case(0.0, "missed")]
    liver = summarise(cases, ABDOMEN)["liver"]
    assert liver["dice"] == {"mean": pytest.approx(1.4 / 3), "sd": pytest.approx(0.203333**0.5, rel=1e-5), "n": 3}
    assert liver["hd95_mm"] == {"mean": 4.0, "sd": None, "n": 1}
    assert liver["assd_mm"] == {"mean": None, "sd": None, "n": 0}
    assert (liver["leakage"], liver["missed"], liver["false_positive"]) == (pytest.approx(0.2), 1, 0)


def test_class_without_any_valid_case_is_null_not_zero():
    summary = summarise([case(None, "absent"), case(None, "false_positive")], ABDOMEN)
    assert summary["liver"]["dice"] == {"mean": None, "sd": None, "n": 0}
    assert (summary["liver"]["leakage"], summary["liver"]["false_positive"]) == (None, 1)
    assert "NaN" not in json.dumps(summary, allow_nan=False)


def test_only_annotated_classes_have_an_entry_in_channel_order():
    summary = summarise([case(0.5, name="spleen"), case(0.9, name="liver")], ABDOMEN)
    assert list(summary) == ["liver", "spleen"]
    assert summary["spleen"]["dice"]["n"] == summary["liver"]["dice"]["n"] == 1


def test_no_cases_no_entries():
    assert summarise([], ABDOMEN) == {}
    assert macro_mean({}) is None


def test_macro_mean_weighs_classes_equally_and_leaves_out_undefined_ones():
    cases = [case(0.8), case(0.6), case(0.3, name="spleen"), case(None, "absent", name="kidney")]
    summary = summarise(cases, ABDOMEN)
    assert macro_mean(summary) == pytest.approx((0.7 + 0.3) / 2)
    assert macro_mean(summary, ["liver", "kidney", "pancreas"]) == pytest.approx(0.7)
    assert macro_mean(summary, ["kidney"]) is None
