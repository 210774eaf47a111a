"""What goes wrong at a site that trains by itself: damaged files, two jobs at once, two sites in one folder."""

from __future__ import annotations

import logging
import shutil
import stat
import threading
from dataclasses import replace

import pytest

from fedpartial.errors import ConfigError
from fedpartial.training import alone as alone_module
from fedpartial.training.alone import LONGEST_PORTION, SHORTEST_PORTION, portion_of
from fedpartial.training.checkpoint import EVERY
from fedpartial.training.local_trainer import LocalTrainer, TrainingStopped
from fedpartial.training.portion_log import NAME, PortionLog
from one_round import Alone, home, never, same_tensors, stage_sites, stopping_after, universal  # noqa: F401

STEPS = 6
DAMAGES = {"empty": b"", "zeros": bytes(1000), "text": b"damaged"}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("faults"))


@pytest.fixture(autouse=True)
def short_portions(monkeypatch):
    """Two steps each, so that six are three portions."""
    monkeypatch.setattr(alone_module, "LONGEST_PORTION", 2)
    monkeypatch.setattr("fedpartial.training.own_models.LOOK_SECONDS", 0.01)


@pytest.fixture
def make(sites, tmp_path):
    """Builds hospitals that share a folder: ``make("liver", seed=4)``."""

    def make(name: str = "liver", folder: str = "models", **plan) -> Alone:
        return Alone(replace(sites[name], model_dir=tmp_path / folder), **{"local_steps": STEPS, **plan})

    return make


@pytest.fixture(scope="module")
def unbroken(universal, sites, tmp_path_factory):  # noqa: F811
    """The liver hospital's model, trained without a pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone_module, "LONGEST_PORTION", 2)
        return Alone(replace(sites["liver"], model_dir=tmp_path_factory.mktemp("unbroken")), local_steps=STEPS).train()


def interrupted(site: Alone, after: int):
    """Begun, and stopped before one more step; the folder of its state."""
    with pytest.raises(TrainingStopped):
        site.train(stopping_after(after))
    return site.session().state_dir


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_local_model_is_trained_again_with_a_warning(unbroken, make, caplog, damage):
    liver = make()
    liver.train()
    liver.own.local.write_bytes(DAMAGES[damage])
    again = liver.train()
    assert again.trained_now
    assert same_tensors(again.weights, unbroken.weights)
    assert "local model cannot be read and is trained again" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_state_costs_one_portion(unbroken, make, caplog, damage):
    liver, said = make(), []
    states = sorted(interrupted(liver, 5).glob(EVERY))
    states[-1].write_bytes(DAMAGES[damage])
    again = liver.train(on_portion=said.append)
    assert said == [1, 2]
    assert again.steps == STEPS
    assert same_tensors(again.weights, unbroken.weights)
    assert f"{states[-1].name} cannot be read" in caplog.text


def test_training_of_which_every_state_is_torn_begins_anew(unbroken, make):
    liver, said = make(), []
    for path in interrupted(liver, 5).glob(EVERY):
        path.write_bytes(b"")
    assert same_tensors(liver.train(on_portion=said.append).weights, unbroken.weights)
    assert said == [0, 1, 2]


def test_a_state_of_other_portions_is_left_behind_with_a_warning(unbroken, make, monkeypatch, caplog):
    liver, said = make(), []
    interrupted(liver, 5)
    monkeypatch.setattr(alone_module, "LONGEST_PORTION", 3)
    again = liver.train(on_portion=said.append)
    assert said == [0, 1]
    assert same_tensors(again.weights, unbroken.weights)
    assert "training begins anew" in caplog.text


def test_a_state_that_vanishes_while_it_is_needed_is_an_error_and_no_new_start(make):
    liver = make()

    def vanish(portion: int) -> None:
        if portion == 1:
            for path in folder.glob(EVERY):
                path.unlink()

    folder = liver.session().state_dir
    with pytest.raises(ConfigError, match=r"got 'nothing left of the first 1 portion\(s\)'"):
        liver.train(on_portion=vanish)
    assert not liver.own.local.exists()


@pytest.mark.parametrize(("seed", "trains"), [(4, True), (3, False)])
def test_a_second_job_waits_and_leaves_the_first_one_s_state_alone(unbroken, make, caplog, seed, trains):
    caplog.set_level(logging.INFO)
    first, second = make(), make(seed=seed)
    began, waited, found = threading.Event(), threading.Event(), []

    def first_goes_on(portion: int) -> None:
        began.set()
        if portion == 1:
            assert waited.wait(30)

    def seen() -> bool:
        waited.set()
        return False

    def comes_second() -> None:
        assert began.wait(30)
        found.append(second.train(seen))

    thread = threading.Thread(target=comes_second)
    thread.start()
    made = first.train(on_portion=first_goes_on)
    thread.join(60)
    assert same_tensors(made.weights, unbroken.weights)
    assert (found[0].steps, found[0].trained_now) == (STEPS, trains)
    assert caplog.text.count("site liver: waiting for another job that trains this site's model") == 1


def test_a_job_that_waits_stops_when_asked(make):
    first, second = make(), make()
    with first.own.training_alone("other", never), pytest.raises(TrainingStopped, match="another job"):
        second.train(stopping_after(2))


def test_unfinished_training_of_another_job_outlives_a_finished_one(unbroken, make):
    first, said = make(), []
    interrupted(first, 5)
    make(seed=4).train()
    assert same_tensors(first.train(on_portion=said.append).weights, unbroken.weights)
    assert said == [2]


def test_nothing_of_a_finished_training_stays_but_the_model(make):
    liver = make()
    liver.train()
    assert [path.name for path in liver.own.folder.iterdir()] == ["local_model.safetensors"]


def test_two_sites_that_name_one_folder_keep_their_own_models(unbroken, make):
    liver, spleen = make("liver"), make("spleen")
    liver.train()
    spleen.train()
    assert not spleen.train().trained_now
    again = liver.train()
    assert not again.trained_now
    assert same_tensors(again.weights, unbroken.weights)


@pytest.mark.parametrize("steps", [502, 633, 997, 53, 10_007])
def test_a_length_that_would_be_saved_too_rarely_is_refused_with_good_ones(monkeypatch, steps):
    monkeypatch.setattr(alone_module, "LONGEST_PORTION", LONGEST_PORTION)
    with pytest.raises(ConfigError, match="local_steps") as refusal:
        portion_of(steps)
    below, above = (int(number.strip(".")) for number in refusal.value.remedy.split()[1::2])
    assert below < steps < above
    for good in (below, above):
        assert SHORTEST_PORTION <= portion_of(good) <= LONGEST_PORTION


def test_no_interruption_costs_more_than_the_longest_portion(monkeypatch):
    monkeypatch.setattr(alone_module, "LONGEST_PORTION", LONGEST_PORTION)
    refused = 0
    for steps in range(1, 1000):
        try:
            portion = portion_of(steps)
        except ConfigError:
            refused += 1
        else:
            assert steps % portion == 0
            assert portion == steps <= LONGEST_PORTION or SHORTEST_PORTION <= portion <= LONGEST_PORTION
    assert 100 < refused < 400


def test_work_before_an_interruption_is_reported_by_the_job_that_ends_it(make, monkeypatch):
    run_round = LocalTrainer.run_round

    def slow(*given):
        result = run_round(*given)
        return replace(result, metrics={**result.metrics, "seconds": 10.0})

    monkeypatch.setattr(LocalTrainer, "run_round", slow)
    liver = make()
    interrupted(liver, 5)
    made = liver.train()
    assert (made.steps, made.seconds, made.trained_now) == (STEPS, 30.0, True)
    again = liver.train()
    assert (again.steps, again.seconds, again.trained_now) == (STEPS, 30.0, False)
    assert again.metrics == made.metrics


def test_a_portion_that_was_trained_twice_counts_once(make):
    liver = make()
    folder = interrupted(liver, 5)
    PortionLog(folder).note(1, {"loss": 1.0, "seconds": 1000.0})
    sorted(folder.glob(EVERY))[-1].write_bytes(b"")
    assert liver.train().seconds < 1000


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"seconds": {"0": "x"}, "last": {}}', b'{"seconds": 1}', b"\xff\xfe"]
)
def test_a_torn_record_of_work_costs_numbers_only(unbroken, make, content):
    liver = make()
    (interrupted(liver, 5) / NAME).write_bytes(content)
    made = liver.train()
    assert (made.steps, made.metrics["loss"]) == (STEPS, unbroken.metrics["loss"])
    assert same_tensors(made.weights, unbroken.weights)


def test_other_users_cannot_read_the_site_s_folder(make, tmp_path):
    liver = make()
    folder = interrupted(liver, 5)
    below = [path for path in (folder, *folder.parents) if path.is_relative_to(tmp_path / "models")]
    assert [path.name for path in below[1:]] == ["training", "liver", "fed", "models"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in below} == {0o700}


def test_a_folder_that_was_there_keeps_its_mode(make, tmp_path):
    (tmp_path / "models").mkdir(mode=0o755)
    liver = make()
    liver.own.make_folder(liver.own.folder)
    assert stat.S_IMODE((tmp_path / "models").stat().st_mode) == 0o755
    shutil.rmtree(tmp_path / "models")
