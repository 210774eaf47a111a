"""A stage at the server without FLARE: store what arrives, note what it cost, distil what is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from test_local_models import model

from fedpartial.distillation.entropy import SelectionRule
from fedpartial.errors import ConfigError
from fedpartial.networks.universal import universal_classes
from fedpartial.server.model_store import DISTILLING
from fedpartial.server.stage import Distillation, Stage
from fedpartial.server.update_check import UpdateRefused
from fedpartial.training.local_trainer import TrainingStopped
from one_round import TINY_DEEPER, home, never, public_file, same_tensors, stage_plan, stopping_after, universal  # noqa: F401

METRICS = {"num_training": 4, "seconds": 2.5, "source": "site file"}
HOW = Distillation(steps=3, rule=SelectionRule())


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return tmp_path_factory.mktemp("public")


@pytest.fixture
def make(tmp_path, public):
    """Builds the stages of one federation: ``make(job="stage2", seed=1)``."""
    public_file(tmp_path / "local", public)
    return lambda **plan: Stage(stage_plan(**plan), tmp_path / "local", {})


def with_models(stage: Stage, *sites: str) -> Stage:
    """Each site has sent a model that knows its organ."""
    for number, site in enumerate(sites):
        stage.accept(site, model(site, seed=10 + number), 8, METRICS)
    return stage


def distil(stage: Stage, how: Distillation = HOW, stop=never):
    return stage.distil(how, stop=stop, on_progress=lambda *_: None)


def test_the_store_lies_where_the_server_says(make, tmp_path, home):  # noqa: F811
    assert make().folder == home / "store" / "fed"
    (tmp_path / "local" / "store.json").write_text('{"folder": "../kept"}')
    assert make(federation="other").folder == tmp_path / "kept" / "other"


def test_a_model_is_stored_with_the_epochs_that_it_took(make):
    stage = make()
    entry = stage.accept("liver", model(), 8, METRICS)
    assert (entry.version, entry.job, entry.preset) == (1, "stage", "tiny_universal")
    (work,) = stage.store.ledger.read()
    assert (work["site"], work["steps"], work["epochs"], work["seconds"]) == (
        "liver",
        8,
        4.0,
        2.5,
    )  # 2 of 4 cases a step
    assert stage.accept("liver", model(), 0, METRICS) == entry


def test_a_model_of_another_network_is_stored_as_that(make):
    stage = make(site_presets={"liver": "tiny_deeper"})
    assert stage.accept("liver", model(preset=TINY_DEEPER), 8, METRICS).preset == "tiny_deeper"


def test_nothing_of_a_refused_model_is_kept(make):
    stage = make()
    with pytest.raises(UpdateRefused):
        stage.accept("liver", model() | {"x": np.ones(1)}, 8, METRICS)
    assert not stage.store.sites()
    assert not stage.store.ledger.read()


def test_a_message_without_tensors_is_none(make):
    stage = make()
    stage.sent("liver", "learn", "down", 0)
    assert not stage.store.ledger.read()


def test_models_that_come_at_the_same_time_are_all_stored(make):
    """FLARE hands over each answer in a thread of its own."""
    stage, names = make(), ("liver", "spleen", "pancreas", "kidney")
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(lambda name: with_models(stage, name), names))
    assert set(stage.store.sites()) == set(names)
    assert {line["site"] for line in stage.store.ledger.read()} == set(names)


def test_before_the_first_stage_there_is_no_global_model(make):
    with pytest.raises(ConfigError, match="Run a stage first"):
        make().global_model()


def test_nothing_can_be_distilled_of_an_empty_store(make):
    with pytest.raises(ConfigError, match="Let a site upload first"):
        distil(make())


def test_without_public_images_the_server_is_told_what_to_write(make, tmp_path):
    stage = with_models(make(), "liver")
    (tmp_path / "local" / "sites" / "public.json").unlink()
    with pytest.raises(ConfigError, match=r"public\.json"):
        distil(stage)
    assert not stage.store.globals()


def test_all_stored_models_are_distilled_whatever_stage_brought_them(make):
    with_models(make(job="stage1"), "liver")
    stage = with_models(make(job="stage2"), "spleen")
    found = distil(stage)
    entry = stage.store.latest_global()
    assert (entry.job, entry.teachers) == ("stage2", {"liver": 1, "spleen": 1})
    assert (
        set(entry.classes) == set(found.classes) == set(universal_classes(stage.global_model())) == {"liver", "spleen"}
    )
    assert same_tensors(stage.global_model(), found.weights)
    assert {choice.klass: choice.teacher for choice in found.choices} == {"liver": "liver", "spleen": "spleen"}
    work = [line for line in stage.store.ledger.read() if line["site"] == "server"]
    assert [(line["steps"], line["epochs"]) for line in work] == [(3, 3.0)]


def test_a_stopped_distillation_goes_on_bit_for_bit(make, tmp_path, home, monkeypatch):  # noqa: F811
    stage = with_models(make(), "liver", "spleen")
    with pytest.raises(TrainingStopped):
        distil(stage, stop=stopping_after(8))
    assert (stage.folder / DISTILLING).is_dir()
    assert not stage.store.globals()
    distil(with_models(make(), "liver"))
    monkeypatch.setenv("FEDPARTIAL_HOME", str(tmp_path / "unbroken"))
    unbroken = with_models(make(), "liver", "spleen")
    distil(unbroken)
    assert same_tensors(unbroken.global_model(), stage.global_model())


def test_a_site_that_sends_anew_is_learnt_from_its_new_version(make):
    stage = with_models(make(), "liver")
    first = distil(stage).weights
    surer = model("liver", seed=10)
    surer["controller.bias"][-1] += 4  # of the head's last layer: foreground everywhere
    stage.accept("liver", surer, 8, METRICS)
    assert not same_tensors(distil(stage).weights, first)
    assert stage.store.latest_global().teachers == {"liver": 2}


def test_a_stage_may_begin_with_the_latest_global_model(make):
    stage = with_models(make(), "liver")
    how = replace(HOW, steps=1)
    cold, warm = distil(stage, how).weights, distil(stage, replace(how, warm_start=True)).weights
    start = dict(stage.store.load(stage.store.globals()[0]))
    assert same_tensors(start, cold)
    assert not same_tensors(warm, cold)
    moved = {name: float(np.abs(np.asarray(warm[name]) - start[name]).max()) for name in start}
    assert max(moved.values()) <= 1.1 * stage.plan.config.optimizer.lr  # one step of Adam from there


def test_a_warm_start_before_any_global_model_is_a_cold_one(make):
    stage = with_models(make(), "liver")
    warm = distil(stage, replace(HOW, warm_start=True)).weights
    assert same_tensors(distil(stage).weights, warm)
    assert len(stage.store.globals()) == 1


def test_a_warm_start_from_another_network_is_a_clear_error(make):
    distil(with_models(make(), "liver"))
    with pytest.raises(ConfigError, match=r"warm_start: got .global model 1 of another network"):
        distil(make(preset="tiny_deeper"), replace(HOW, warm_start=True))
