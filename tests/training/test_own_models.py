"""A site's own folder, and what decides that a model in it is the one that is asked for."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_hospital import write_nifti

from fedpartial.methods.mmds import Mmds
from fedpartial.networks.universal import EMBEDDINGS
from fedpartial.training.alone import recipe
from fedpartial.training.model_file import load_model, model_info
from fedpartial.training.own_models import OwnModels
from one_round import Alone, files_in, home, same_tensors, stage_plan, stage_sites, universal  # noqa: F401


@pytest.fixture(scope="module")
def liver(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("own"))["liver"]


@pytest.fixture
def own(tmp_path) -> OwnModels:
    return OwnModels(tmp_path, "fed", "liver")


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {f"{EMBEDDINGS}liver": torch.full((8,), value), "head.0.weight": torch.full((2,), value)}


def info(recipe: str = ""):
    return replace(model_info(stage_plan(), 1, classes=("liver",)), recipe=recipe)


def test_a_model_is_found_by_its_recipe_alone(own):
    assert own.trained_by("abc") is None
    own.keep_local(weights(), info("abc"))
    assert own.trained_by("abd") is None
    found = own.trained_by("abc")
    assert found.info == info("abc")
    assert same_tensors(found.weights, weights())


def test_a_finished_model_replaces_the_one_before_and_its_unfinished_training(own):
    for name in ("abc", "def", "old"):
        own.training_dir(name).mkdir(parents=True)
        (own.training_dir(name) / "state").write_text("half")
    for path in (own.training_dir("old") / "state", own.training_dir("old")):
        os.utime(path, (0, 0))
    own.keep_global(weights(2.0), info())
    assert own.training_dir("abc").exists()
    own.keep_local(weights(), info("abc"))
    assert own.training_dir("def").exists()  # another job may go on with it
    assert not own.training_dir("old").exists()
    own.keep_local(weights(3.0), info("def"))
    assert own.trained_by("abc") is None
    assert sorted(files_in(own.folder)) == ["global_model.safetensors", "local_model.safetensors"]
    assert load_model(own.global_model)[0]["head.0.weight"].tolist() == [2.0, 2.0]


def test_its_folder_is_for_the_sites_own_user(own):
    own.keep_local(weights(), info("abc"))
    for folder in (own.folder, own.folder.parent, own.model_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_federations_have_folders_of_their_own(own, tmp_path):
    own.keep_local(weights(), info("abc"))
    assert OwnModels(tmp_path, "other", "liver").trained_by("abc") is None


def test_a_model_without_recipe_is_that_of_no_recipe(own):
    own.keep_local(weights(), info())
    assert own.trained_by("abc") is None


def recipe_at(site, method=None, embeddings=None, **plan) -> str:
    session = Alone(site, **plan).session({}, method)
    return recipe(session, embeddings or {})


def other_label(site) -> None:
    path = site.data_root / json.loads(site.datalist.read_text())["training"][1]["label"]
    write_nifti(path, np.ones((16, 14, 12), np.uint8))


def other_image(site) -> None:
    path = site.data_root / json.loads(site.datalist.read_text())["training"][0]["image"]
    write_nifti(path, np.zeros((16, 14, 12), np.float32))


def other_list(site) -> None:
    listed = json.loads(site.datalist.read_text())
    site.datalist.write_text(json.dumps({**listed, "training": listed["training"][::-1][:1]}))


@pytest.mark.parametrize("change", [other_label, other_image, other_list])
def test_what_lies_on_disk_decides(liver, tmp_path, change):
    shutil.copytree(liver.data_root, tmp_path / "data")
    copy = replace(liver, data_root=tmp_path / "data", datalist=tmp_path / "data/datalist.json")
    before = recipe_at(copy)
    change(copy)
    assert recipe_at(copy) != before


def test_what_a_case_annotates_decides(liver, tmp_path):
    """The same files: a case without a tumour was searched for one, or was not."""
    shutil.copytree(liver.data_root, tmp_path / "data")
    copy = replace(liver, data_root=tmp_path / "data", datalist=tmp_path / "data/datalist.json")
    other_label(copy)
    before, listed = recipe_at(copy), json.loads(copy.datalist.read_text())
    listed["training"][1]["labels"] = ["liver"]
    copy.datalist.write_text(json.dumps(listed))
    assert recipe_at(copy) != before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"local_steps": 5},
        {"preset": "tiny_deeper"},
        {"site_presets": {"liver": "tiny_deeper"}},
        {"site_classes": {"liver": ["liver"]}},
        {"method": Mmds(bce_weight=0.5)},
        {"embeddings": {f"{EMBEDDINGS}liver": np.ones(8, np.float32)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_the_job_says_decides(liver, change):
    assert recipe_at(liver, **change) != recipe_at(liver)


@pytest.mark.parametrize(
    "change",
    [
        {"job": "another"},
        {"site_classes": {"liver": ["liver_tumor", "liver"]}},
        {"site_presets": {"spleen": "tiny_deeper"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nothing_else_decides(liver, change):
    assert recipe_at(liver, **change) == recipe_at(liver)


def test_test_cases_do_not_decide(liver, tmp_path):
    shutil.copytree(liver.data_root, tmp_path / "data")
    copy = replace(liver, data_root=tmp_path / "data", datalist=tmp_path / "data/datalist.json")
    before, listed = recipe_at(copy), json.loads(copy.datalist.read_text())
    copy.datalist.write_text(json.dumps({**listed, "testing": listed["validation"], "validation": listed["testing"]}))
    assert recipe_at(copy) == before
