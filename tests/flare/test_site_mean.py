"""The aggregator as FLARE calls it: accept, aggregate, reset."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from in_process import Engine, context, peer
from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.app_common.app_constant import AppConstants

from federation import tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.flare.aggregator import SiteMean
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.weights import update_message


@pytest.fixture
def fl_ctx(tmp_path):
    fl_ctx = context(Engine({}), "server", tmp_path)
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 3, private=True, sticky=True)
    return fl_ctx


def accept(
    mean: SiteMean, fl_ctx, site: str, value: float, *, steps: int = 1, cases: int = 1, number: int | None = 3
) -> bool:
    shareable = update_message({"w": torch.full((2,), value)}, steps, {"num_training": cases})
    if number is not None:
        shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
    fl_ctx.set_peer_context(peer(site))
    return mean.accept(shareable, fl_ctx)


def result(mean: SiteMean, fl_ctx) -> list[float]:
    dxo = from_shareable(mean.aggregate(fl_ctx))
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert list(dxo.data) == ["w"]
    assert dxo.data["w"].dtype == np.float32
    return dxo.data["w"].tolist()


@pytest.mark.parametrize(("weighting", "expected"), [("uniform", 2.5), ("num_steps", (1 + 3 * 4) / 4)])
def test_it_is_the_mean_of_the_sites(fl_ctx, weighting, expected):
    mean = SiteMean(weighting)
    assert accept(mean, fl_ctx, "a", 1.0, steps=1)
    assert accept(mean, fl_ctx, "b", 4.0, steps=3)
    assert result(mean, fl_ctx) == [expected, expected]


def test_by_training_cases_it_is_numpys_average(fl_ctx):
    """n_k / n of McMahan et al.; the steps do not matter."""
    values, cases = [1.5, -2.0, 7.25, 0.125], [16, 3, 210, 41]
    mean = SiteMean("num_training")
    for i in (2, 0, 3, 1):
        assert accept(mean, fl_ctx, f"site{i}", values[i], steps=100 * (i + 1), cases=cases[i])
    assert result(mean, fl_ctx) == pytest.approx([np.average(values, weights=cases)] * 2, rel=1e-6)


def test_a_new_round_weighs_anew(fl_ctx):
    mean = SiteMean("num_training")
    accept(mean, fl_ctx, "a", 1.0, cases=9)
    mean.reset(fl_ctx)
    accept(mean, fl_ctx, "a", 1.0, cases=1)
    accept(mean, fl_ctx, "b", 4.0, cases=2)
    assert result(mean, fl_ctx) == [3.0, 3.0]


@pytest.mark.parametrize("number", [2, 4, None])
def test_an_update_of_another_round_is_left_out(fl_ctx, number, caplog):
    mean = SiteMean()
    assert accept(mean, fl_ctx, "a", 1.0)
    assert not accept(mean, fl_ctx, "late", 100.0, number=number)
    assert "late" in caplog.text
    assert result(mean, fl_ctx) == [1.0, 1.0]


def test_a_site_counts_once_with_its_first_update(fl_ctx, caplog):
    mean = SiteMean()
    assert accept(mean, fl_ctx, "a", 3.0)
    assert not accept(mean, fl_ctx, "a", 100.0)
    assert "second update from a" in caplog.text
    accept(mean, fl_ctx, "b", 1.0)
    assert result(mean, fl_ctx) == [2.0, 2.0]


def test_an_update_is_not_kept(fl_ctx):
    """Neither while the round goes on, nor its sum when it is over: the memory of a round does not pile up."""
    mean, values = SiteMean(), np.ones(1000, np.float32)
    shareable = update_message({}, 1, {"num_training": 1})
    from_shareable(shareable)
    shareable["DXO"]["data"]["w"] = values
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 3)
    fl_ctx.set_peer_context(peer("a"))
    assert mean.accept(shareable, fl_ctx)
    kept = weakref.ref(values)
    del shareable, values
    assert kept() is None
    mean.reset(fl_ctx)
    with pytest.raises(ValueError, match="no update to aggregate"):
        mean.aggregate(fl_ctx)


def test_a_bad_weight_leaves_nothing_in_the_sums(fl_ctx):
    mean = SiteMean("num_training")
    assert accept(mean, fl_ctx, "a", 1.0, cases=2)
    with pytest.raises(ValueError, match="aggregation weight of b"):
        accept(mean, fl_ctx, "b", 100.0, cases=0)
    assert accept(mean, fl_ctx, "b", 4.0, cases=1)
    assert result(mean, fl_ctx) == [2.0, 2.0]


def test_a_new_round_starts_empty(fl_ctx):
    mean = SiteMean()
    accept(mean, fl_ctx, "a", 1.0)
    mean.reset(fl_ctx)
    accept(mean, fl_ctx, "b", 5.0)
    assert result(mean, fl_ctx) == [5.0, 5.0]
    mean.reset(fl_ctx)
    with pytest.raises(ValueError, match="no update to aggregate"):
        mean.aggregate(fl_ctx)


@pytest.mark.parametrize("weighting", ["samples", "Uniform", "", None])
def test_an_unknown_weighting_is_refused(weighting):
    with pytest.raises(ConfigError, match="uniform, num_steps, num_training") as caught:
        SiteMean(weighting)
    assert caught.value.field == "aggregator.weighting"
    assert caught.value.got == weighting


def accept_bias(mean: SiteMean, fl_ctx, site: str, value: float, cases: dict[str, int]) -> None:
    """An update of the output layer's bias, a number for each of the eight channels."""
    metrics = {"num_training": max(cases.values()), "annotated": dict.fromkeys(cases, 1)}
    shareable = update_message({"output_block.conv.conv.bias": torch.full((8,), value)}, 1, metrics)
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 3)
    fl_ctx.set_peer_context(peer(site))
    assert mean.accept(shareable, fl_ctx)


@pytest.mark.parametrize("order", [1, -1])
def test_with_label_weights_a_class_follows_the_sites_that_annotate_it(tiny, tmp_path, order):
    """Rows background, liver, liver tumour, spleen and four that nobody annotates; background by training cases."""
    fl_ctx = context(Engine({"plan": RunPlan(**tiny_plan().to_dict())}), "server", tmp_path)
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 3, private=True, sticky=True)
    mean = SiteMean("num_training", {"annotated": 1.0, "other": 0.5})
    for site, value, cases in (("a", 1.0, {"liver": 9, "liver_tumor": 2}), ("b", 4.0, {"spleen": 3}))[::order]:
        accept_bias(mean, fl_ctx, site, value, cases)
    found = from_shareable(mean.aggregate(fl_ctx)).data["output_block.conv.conv.bias"]
    assert found == pytest.approx([(9 + 12) / 12, 2, 2, 3, 2.5, 2.5, 2.5, 2.5])
    mean.reset(fl_ctx)
    with pytest.raises(ValueError, match="no update to aggregate"):
        mean.aggregate(fl_ctx)


def test_wrong_label_weights_are_refused():
    with pytest.raises(ConfigError, match="annotated"):
        SiteMean("num_training", {"annotated": 1.0})
