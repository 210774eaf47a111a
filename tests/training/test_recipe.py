"""What a local model's recipe covers: what decides the model, and nothing that does not."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fedpartial.data.store import prepare_cases
from fedpartial.labels import LabelSpace
from fedpartial.methods.mmds import Mmds
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig, SitePool
from fedpartial.training.alone import recipe
from fedpartial.training.recipe import DECIDING, recipe_of
from one_round import TINY_UNIVERSAL, Alone, home, stage_sites, universal  # noqa: F401

NOT_DECIDING = {
    "name": "renamed",
    "overlap": 0.25,
    "inference_batch": 3,
    "num_rounds": 7,
    "local_steps": 777,
    "cpu_threads": 2,
    "finetune_steps": 5,
    "pretrain_rounds": 1,
    "validate_every": 3,
    "distil_steps": 999,
}
OTHER = {
    "window_hu": (-150.0, 250.0),
    "normalise_subtract": 7.0,
    "normalise_divide": 77.0,
    "spacing_mm": (2.0, 2.0, 2.5),
    "patch": (16, 16, 32),
    "volumes_per_batch": 5,
    "patches_per_volume": 5,
    "foreground_fraction": 0.125,
    "patch_keep": "organ_coverage",
    "patch_keep_fraction": 0.5,
    "augmentation": "none",
    "label_space": LabelSpace(organs=TINY_UNIVERSAL.label_space.organs[:4]),
    "network": replace(TINY_UNIVERSAL.network, channels=(4, 16)),
    "optimizer": replace(TINY_UNIVERSAL.optimizer, lr=0.5),
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("recipe"))


@pytest.fixture
def liver(sites, tmp_path) -> SiteConfig:
    """A hospital whose files a test may change."""
    root = shutil.copytree(sites["liver"].data_root, tmp_path / "data")
    return replace(sites["liver"], data_root=root, datalist=root / "datalist.json", model_dir=tmp_path / "models")


def recipe_at(site: SiteConfig | SitePool, **plan) -> str:
    return recipe(Alone(site, **plan).session(), {})


@pytest.fixture(scope="module")
def of_preset(sites, tmp_path_factory):
    """The recipe of one hospital's cases with a preset that has these values."""
    site = replace(sites["liver"], model_dir=tmp_path_factory.mktemp("models"))
    cases = prepare_cases(site, TINY_UNIVERSAL).training

    def of_preset(**changes) -> str:
        given = {"method": Mmds(), "steps": 6, "seed": 3, "classes": ("liver",), "embeddings": {}, "cases": cases}
        return recipe_of(preset=replace(TINY_UNIVERSAL, **changes), **given)

    return of_preset


def test_every_field_of_a_preset_is_known_to_decide_or_not():
    assert {*DECIDING, *NOT_DECIDING} == {field.name for field in fields(Preset)}
    assert set(OTHER) == set(DECIDING)


@pytest.mark.parametrize("name", NOT_DECIDING)
def test_a_preset_s_lengths_and_names_do_not_decide(of_preset, name):
    assert of_preset(**{name: NOT_DECIDING[name]}) == of_preset()


@pytest.mark.parametrize("name", OTHER)
def test_what_a_preset_trains_with_decides(of_preset, name):
    assert of_preset(**{name: OTHER[name]}) != of_preset()


def test_a_corrected_label_map_decides(liver):
    swapped = replace(liver, labels={1: "liver_tumor", 2: "liver"})
    assert recipe_at(swapped) != recipe_at(liver)


def test_the_label_map_of_a_member_decides_in_a_pool(sites, tmp_path):
    liver, spleen = sites["liver"], sites["spleen"]
    swapped = replace(liver, labels={1: "liver_tumor", 2: "liver"})
    given = {"name": "central", "source": "site file", "where": "sites/central.json", "model_dir": tmp_path}
    pools = [SitePool(members=(member, spleen), device="cpu", **given) for member in (liver, swapped)]
    assert recipe_at(pools[0]) != recipe_at(pools[1])


def rewritten(path: Path) -> None:
    """The same bytes, written a year later."""
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, (status.st_atime, status.st_mtime + 365 * 24 * 3600))


def test_the_same_files_written_again_do_not_decide(liver):
    before = recipe_at(liver)
    for path in liver.data_root.glob("*.nii.gz"):
        rewritten(path)
    assert recipe_at(liver) == before


def test_the_same_files_at_another_place_do_not_decide(liver, tmp_path):
    before = recipe_at(liver)
    moved = shutil.move(liver.data_root, tmp_path / "moved")
    assert recipe_at(replace(liver, data_root=Path(moved), datalist=Path(moved) / "datalist.json")) == before


def test_the_device_does_not_decide(liver):
    assert recipe_at(replace(liver, device="auto", num_workers=1)) == recipe_at(liver)
