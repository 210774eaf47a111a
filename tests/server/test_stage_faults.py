"""A stage at the server when something goes wrong: withdrawals, foreign presets, useless models, repeated uploads."""

from __future__ import annotations

import json
import logging
import stat
from dataclasses import replace

import numpy as np
import pytest
from test_local_models import model

from fedpartial import presets
from fedpartial.distillation.entropy import SelectionRule
from fedpartial.errors import ConfigError
from fedpartial.phantom import PHANTOM_SITES, profiles
from fedpartial.server import stage as stage_module
from fedpartial.server.model_store import DISTILLING, Entry
from fedpartial.server.stage import Distillation, Stage
from fedpartial.server.store_manifest import MANIFEST
from fedpartial.server.update_check import UpdateRefused
from fedpartial.training.local_trainer import TrainingStopped
from one_round import TINY_DEEPER, TINY_UNIVERSAL, home, never, public_file, stage_plan, universal  # noqa: F401

METRICS = {"num_training": 4, "seconds": 2.5, "source": "site file"}
HOW = Distillation(steps=3, rule=SelectionRule())
WARM = replace(HOW, warm_start=True)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return tmp_path_factory.mktemp("public")


@pytest.fixture
def make(tmp_path, public):
    """Builds the stages of one federation: ``make(job="stage2", seed=1)``."""
    public_file(tmp_path / "local", public)
    return lambda **plan: Stage(stage_plan(**plan), tmp_path / "local", {})


def with_models(stage: Stage, *sites: str, source: str = "site file") -> Stage:
    for number, site in enumerate(sites):
        stage.accept(site, model(site, seed=10 + number), 8, {**METRICS, "source": source})
    return stage


def distil(stage: Stage, how: Distillation = HOW, stop=never, at=lambda what, done: None):
    return stage.distil(how, stop=stop, on_progress=lambda what, done, total: at(what, done))


def at_step(number: int, do):
    """Do it after this step of the distillation."""
    return lambda what, done: do() if what.startswith("distillation") and done == number else None


def of_another_preset(stage: Stage) -> None:
    other = replace(TINY_UNIVERSAL, name="tiny_other", window_hu=(-100.0, 100.0))
    presets.PRESETS["tiny_other"] = other
    stage.store.add("spleen", model("spleen"), preset=other, job="of others")


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(presets, "PRESETS", dict(presets.PRESETS))


def test_a_model_of_another_preset_is_refused_before_anything_is_done(make, registry):
    stage = with_models(make(site_presets={"liver": "tiny_deeper"}))
    stage.accept("liver", model("liver", preset=TINY_DEEPER), 8, METRICS)
    stage.check()
    of_another_preset(stage)
    said = r"spleen, version 1.*'tiny_other'.*another federation.*store remove spleen"
    for act in (stage.check, lambda: distil(stage)):
        with pytest.raises(ConfigError, match=said):
            act()
    presets.PRESETS.pop("tiny_other")
    with pytest.raises(ConfigError, match=said):
        stage.check()


def test_a_withdrawal_after_a_distillation_leaves_nothing_of_its_state(make):
    stage = with_models(make(), "liver", "spleen")
    distil(stage)
    assert (stage.folder / DISTILLING).is_dir(), "the same stage again takes no step"
    stage.store.remove("spleen")
    assert not (stage.folder / DISTILLING).exists()


@pytest.mark.parametrize("step", [1, 3])
def test_a_withdrawal_during_a_distillation_leaves_nothing_of_what_was_learnt(make, step):
    stage = with_models(make(), "liver", "spleen")
    with pytest.raises(ConfigError, match=r"spleen withdrew.*Start the stage again"):
        distil(stage, at=at_step(step, lambda: stage.store.remove("spleen")))
    assert not (stage.folder / DISTILLING).exists()
    assert not stage.store.globals()
    assert distil(stage).classes == ("liver",)


def test_a_distillation_that_is_stopped_after_a_withdrawal_leaves_nothing_either(make):
    stage, withdrawn = with_models(make(), "liver", "spleen"), []

    def withdraw():
        withdrawn.append(stage.store.remove("spleen"))

    with pytest.raises(TrainingStopped):
        distil(stage, at=at_step(1, withdraw), stop=lambda: bool(withdrawn))
    assert not (stage.folder / DISTILLING).exists()


def test_a_warm_start_learns_from_all_that_its_start_has_learnt_from(make):
    first = distil(with_models(make(), "liver"))
    stage = with_models(make(), "spleen")
    assert first.classes == ("liver",)
    stage.store.remove("liver")
    with pytest.raises(ConfigError, match=r"warm_start.*liver, withdrawn since.*remove liver --with-globals"):
        distil(stage, WARM)
    assert distil(stage).classes == ("spleen",)
    assert [entry.start for entry in stage.store.globals()] == [None, None]
    distil(stage, replace(WARM, steps=4))
    assert [entry.start for entry in stage.store.globals()] == [None, None, 2]


def test_the_descendants_of_a_global_model_go_with_who_taught_it(make):
    store = make().store
    given = {"preset": TINY_UNIVERSAL, "job": "j"}
    for site in ("liver", "spleen"):
        store.add(site, model(site), **given)
    store.add_global(model("liver", seed=1), teachers={"liver": 1}, **given)
    store.add_global(model("spleen", seed=2), teachers={"spleen": 1}, start=1, **given)
    store.add_global(model("spleen", seed=3), teachers={"spleen": 1}, start=2, **given)
    store.add_global(model("spleen", seed=4), teachers={"spleen": 1}, **given)
    assert store.remove("liver").distilled_into == (1, 2, 3)
    with pytest.raises(ConfigError, match="teacher liver, version 1"):
        store.add_global(model("spleen", seed=5), teachers={"spleen": 1}, start=3, **given)
    assert store.remove("liver", with_globals=True).globals_deleted == (1, 2, 3)
    assert [entry.version for entry in store.globals()] == [4]
    with pytest.raises(ConfigError, match="teacher global, version 3"):
        store.add_global(model("spleen", seed=5), teachers={"spleen": 1}, start=3, **given)


def test_a_model_that_was_trained_while_its_site_withdrew_is_refused_by_name(make):
    stage = with_models(make(), "liver", "spleen")
    stage.store.remove("liver")
    with pytest.raises(ConfigError, match=r"liver.*before the site withdrew"):
        stage.accept("liver", model("liver", seed=7), 8, METRICS)
    assert list(stage.store.sites()) == ["spleen"]
    with_models(stage, "kidney")
    assert make().accept("liver", model("liver", seed=7), 8, METRICS).version == 2, "it takes part in another job"


def test_a_site_that_was_rolled_back_stays_so_until_it_sends_another_model(make, caplog):
    stage = with_models(make(), "liver")
    stage.accept("liver", model("liver", seed=20), 8, METRICS)
    stage.store.roll_back("liver", 1)
    with caplog.at_level(logging.WARNING):
        assert stage.accept("liver", model("liver", seed=20), 8, METRICS).version == 2
    assert stage.store.sites()["liver"].version == 1
    said = "liver: version 2 is what the site had uploaded before; version 1 stays in use"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert stage.accept("liver", model("liver", seed=21), 8, METRICS).version == 3
    assert stage.store.sites()["liver"].version == 3


def test_a_damaged_version_that_comes_again_is_mended_by_a_new_one(make):
    stage = with_models(make(), "liver")
    (path,) = stage.folder.glob("models/liver/*")
    path.write_bytes(b"damaged")
    assert with_models(stage, "liver").store.sites()["liver"].version == 2


def server_steps(stage: Stage) -> list[int]:
    return [line["steps"] for line in stage.store.ledger.read() if line["site"] == "server"]


def test_work_is_noted_once_by_whom_and_when_it_was_done(make):
    stage = with_models(make(), "liver")
    with_models(make(job="stage2"), "liver")
    assert [line["steps"] for line in stage.store.ledger.read()] == [8], "the same model has cost nothing again"
    taken = []
    with pytest.raises(TrainingStopped):
        distil(stage, at=at_step(1, lambda: taken.append(1)), stop=lambda: bool(taken))
    distil(stage)
    assert server_steps(stage) == [1, 2]


def test_a_result_that_a_killed_server_had_finished_costs_no_step(make, monkeypatch):
    stage = with_models(make(), "liver")
    with monkeypatch.context() as killed:
        killed.setattr(stage.store, "add_global", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distil(stage)
    assert distil(stage).steps_now == 0
    assert server_steps(stage) == [3]


@pytest.mark.parametrize(("value", "dtype"), [(1e300, np.float64), (1.0, np.float64), (1.0, np.float16)])
def test_other_numbers_than_float32_are_refused(make, value, dtype):
    given = model("liver")
    given["controller.bias"] = np.full_like(given["controller.bias"], value, dtype=dtype)
    with pytest.raises(UpdateRefused, match=rf"liver refused.*controller.bias.*{np.dtype(dtype).name}.*float32"):
        make().accept("liver", given, 8, METRICS)


def test_finite_weights_whose_outputs_are_not_are_refused_by_name(make):
    stage, given = make(), model("liver")
    given["controller.bias"] = np.full_like(given["controller.bias"], 3e38)
    with pytest.raises(UpdateRefused, match="model of liver refused: its outputs are not finite"):
        stage.accept("liver", given, 8, METRICS)
    assert not stage.store.sites()


def test_a_model_that_turns_out_useless_does_not_stop_the_stage(make):
    stage, given = with_models(make(), "spleen"), model("liver")
    given["controller.bias"] = np.full_like(given["controller.bias"], np.nan)
    stage.store.add("liver", given, preset=TINY_UNIVERSAL, job="an earlier fedpartial")
    assert "liver-v1" in distil(stage).left_out["liver"]
    assert stage.store.latest_global().teachers == {"spleen": 1}


def test_a_model_is_built_as_it_was_stored_when_its_preset_has_changed(make, monkeypatch, registry):
    first = distil(with_models(make(), "liver")).weights
    other = replace(TINY_UNIVERSAL, network=TINY_DEEPER.network)
    monkeypatch.setitem(presets.PRESETS, "tiny_universal", other)
    stage = make()
    (teacher,) = [stage._teacher(entry) for entry in stage.store.sites().values()]
    assert set(dict(teacher.load().named_parameters())) <= set(first)
    assert distil(stage).classes == ("liver",)


def rewrite(stage: Stage, change) -> None:
    path = stage.folder / MANIFEST
    content = json.loads(path.read_text())
    change(content["models"]["liver"]["entries"][0])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["architecture"]["arguments"].update(from_the_future=1),
        lambda entry: entry["architecture"]["arguments"].update(channels=[4, 6]),
    ],
)
def test_a_model_that_cannot_be_built_any_more_is_an_error_that_names_it(make, change):
    stage = with_models(make(), "liver", "spleen")
    rewrite(stage, change)
    with pytest.raises(ConfigError, match=r"liver, version 1: got .a model that cannot be built"):
        distil(stage)


def test_where_a_model_comes_from_is_kept_and_an_older_manifest_does_not_say_it(make):
    stage = with_models(make(), "liver", source="phantom")
    assert stage.store.sites()["liver"].source == "phantom"
    rewrite(stage, lambda entry: (entry.pop("source"), entry.pop("start")))
    (entry,) = stage.store.history("liver")
    assert isinstance(entry, Entry)
    assert entry.source is None


@pytest.mark.parametrize(("sources", "phantoms"), [("pp", True), ("ps", False), ("ss", False)])
def test_the_phantoms_images_are_for_models_of_the_phantom_alone(make, tmp_path, monkeypatch, sources, phantoms):
    stage, asked = make(), []
    for site, letter in zip(("liver", "spleen"), sources, strict=True):
        with_models(stage, site, source={"p": "phantom", "s": "site file"}[letter])
    (tmp_path / "local" / "sites" / "public.json").unlink()
    monkeypatch.setenv("FEDPARTIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(profiles.PHANTOM_SITES, "public", replace(PHANTOM_SITES["public"], training=1))
    monkeypatch.setattr(stage_module, "public_volumes", lambda *_, phantom, **__: asked.append(phantom) or stop_here())
    with pytest.raises(KeyboardInterrupt):
        distil(stage)
    assert asked == [phantoms]


def stop_here():
    raise KeyboardInterrupt


def test_the_server_computes_where_its_own_word_says(make, tmp_path, monkeypatch):
    stage = with_models(make(), "liver")
    path = tmp_path / "local" / "sites" / "public.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "of the file"}))
    with pytest.raises(ConfigError, match="of the file"):
        distil(stage)
    monkeypatch.setenv("FEDPARTIAL_DEVICE", "of the shell")
    with pytest.raises(ConfigError, match="of the shell"):
        distil(stage)
    monkeypatch.setenv("FEDPARTIAL_DEVICE", "cpu")
    assert distil(stage).classes == ("liver",)


def test_what_the_store_keeps_is_its_owners_alone(make):
    stage, taken = with_models(make(), "liver"), []
    with pytest.raises(TrainingStopped):
        distil(stage, at=at_step(1, lambda: taken.append(1)), stop=lambda: bool(taken))
    folders = [path for path in (stage.folder, *stage.folder.rglob("*")) if path.is_dir()]
    assert {path.name for path in folders} >= {"fed", "models", "liver", "probabilities", DISTILLING}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


@pytest.mark.parametrize("name", [DISTILLING, "probabilities/{key}"])
def test_a_withdrawal_ends_well_where_a_folder_is_a_link(make, tmp_path, name):
    stage = with_models(make(), "liver")
    place = stage.folder / name.format(key=stage.store.sites()["liver"].key)
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    assert stage.store.remove("liver").versions == (1,)
    assert not place.is_symlink()
