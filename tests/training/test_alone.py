"""A site that trains by itself: interrupted it goes on bit for bit, finished it trains no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.embeddings import class_embedding
from fedpartial.networks.universal import EMBEDDINGS, universal_classes
from fedpartial.training.alone import LONGEST_PORTION, alone, portion_of
from fedpartial.training.local_trainer import LocalTrainer, TrainingStopped
from fedpartial.training.model_file import load_model
from one_round import (  # noqa: F401
    LENGTH,
    TINY_UNIVERSAL,
    Alone,
    files_in,
    home,
    same_tensors,
    stage_plan,
    stage_sites,
    stopping_after,
    universal,
)

STEPS = 6


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("alone"))


@pytest.fixture(autouse=True)
def short_portions(monkeypatch):
    """Two steps each, so that six are three portions."""
    monkeypatch.setattr("fedpartial.training.alone.LONGEST_PORTION", 2)


@pytest.fixture
def make(sites, tmp_path):
    """Builds hospitals with a folder each: ``make("liver", folder="a", seed=4)``."""

    def make(name: str = "liver", folder: str = "models", **plan) -> Alone:
        site = replace(sites[name], model_dir=tmp_path / folder / name)
        return Alone(site, **{"local_steps": STEPS, **plan})

    return make


@pytest.fixture(scope="module")
def unbroken(universal, sites, tmp_path_factory):  # noqa: F811
    """The liver hospital's model, trained without a pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpartial.training.alone.LONGEST_PORTION", 2)
        site = replace(sites["liver"], model_dir=tmp_path_factory.mktemp("unbroken"))
        return Alone(site, local_steps=STEPS).train()


@pytest.mark.parametrize(("steps", "portion"), [(250, 50), (6, 6), (100_000, 50), (49, 49), (98, 49), (632, 8), (1, 1)])
def test_a_portion_divides_the_steps(monkeypatch, steps, portion):
    monkeypatch.setattr("fedpartial.training.alone.LONGEST_PORTION", LONGEST_PORTION)
    assert portion_of(steps) == portion
    plan = alone(stage_plan(local_steps=steps, site_presets={"liver": "tiny_deeper"}), "liver")
    assert plan.num_rounds * plan.local_steps == steps
    assert plan.preset == "tiny_deeper"


def test_its_model_has_the_classes_that_it_annotates(unbroken, make):
    assert unbroken.steps == STEPS
    assert set(universal_classes(unbroken.weights)) == {"liver", "liver_tumor"}
    start = canonical_state(build_network(TINY_UNIVERSAL, seed=3, head_classes=("liver", "liver_tumor")))
    changed = {name for name in start if not torch.equal(start[name], unbroken.weights[name])}
    assert changed == {name for name in start if not name.startswith(EMBEDDINGS)}
    assert unbroken.metrics.keys() >= {"loss", "bce", "dice", "seconds", "optimizer_round"}


@pytest.mark.parametrize("taken", [0, 1, 2, 5])
def test_interrupted_training_goes_on_bit_for_bit_in_a_new_process(unbroken, make, taken):
    liver = make()
    with pytest.raises(TrainingStopped):
        liver.train(stopping_after(taken))
    assert not liver.own.local.exists()
    again = liver.train()
    assert (again.steps, again.trained_now) == (STEPS, True)
    assert same_tensors(again.weights, unbroken.weights)


def test_training_that_is_interrupted_again_and_again_ends_in_the_same_model(unbroken, make):
    liver = make()
    for _ in range(2):
        with pytest.raises(TrainingStopped):
            liver.train(stopping_after(3))
    assert same_tensors(liver.train().weights, unbroken.weights)


def test_another_seed_does_not_go_on_with_it(make):
    first, other = make(), make(seed=4)
    with pytest.raises(TrainingStopped):
        first.train(stopping_after(5))
    assert other.train().trained_now
    assert first.train().trained_now  # the finished model replaced the one before
    assert same_tensors(other.train().weights, make(folder="elsewhere", seed=4).train().weights)


def test_a_finished_model_is_given_without_a_step(unbroken, make, monkeypatch):
    liver = make()
    made, kept = liver.train(), files_in(liver.own.folder)
    monkeypatch.setattr(LocalTrainer, "run_steps", lambda *_, **__: pytest.fail("trained again"))
    again = liver.train()
    assert (again.steps, again.metrics, again.trained_now) == (STEPS, made.metrics, False)
    assert same_tensors(again.weights, unbroken.weights)
    assert files_in(liver.own.folder) == kept


def test_a_process_that_dies_after_the_last_step_has_nothing_left_to_train(unbroken, make, monkeypatch):
    liver = make()
    with monkeypatch.context() as patch:
        patch.setattr("fedpartial.training.alone.model_info", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            liver.train()
    again = liver.train()
    assert (again.steps, again.trained_now) == (STEPS, False)
    assert again.metrics["loss"] > 0
    assert again.seconds > 0
    assert same_tensors(again.weights, unbroken.weights)


def test_it_says_where_it_is(make):
    said = []
    make().train(on_portion=said.append)
    assert said == [0, 1, 2]


def test_it_begins_with_the_vectors_that_the_server_gives(make):
    vectors = {
        f"{EMBEDDINGS}{name}": class_embedding(f"other {name}", LENGTH) for name in ("liver", "liver_tumor", "aorta")
    }
    liver = make()
    found = liver.train(embeddings=vectors)
    for name in ("liver", "liver_tumor"):
        assert np.array_equal(found.weights[f"{EMBEDDINGS}{name}"], vectors[f"{EMBEDDINGS}{name}"])
    assert f"{EMBEDDINGS}aorta" not in found.weights
    assert load_model(liver.own.local)[1].classes == ("background", "liver", "liver_tumor")
