"""Which patches are trained on: METHODS 3.4, three readings of one sentence."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from tiny_hospital import store_arrays

from fedpartial.data import stored_case
from fedpartial.data.patch_keep import MAX_CANDIDATES, SCORES, best_coverage, foreground_share, kept_start
from fedpartial.data.sampler import PatchSampler
from fedpartial.presets import ABDOMEN, Preset

LIVER, LIVER_TUMOR, SPLEEN = (ABDOMEN.index(name) for name in ("liver", "liver_tumor", "spleen"))
RULES = ("fg_voxel_fraction", "organ_coverage")


@pytest.fixture
def preset(preset):
    """Patches from anywhere, without augmentation."""
    return replace(preset, augmentation="none", foreground_fraction=0.0)


def case_of(folder, number: int = 0, *, classes=("liver", "liver_tumor")):
    """A block of liver in a corner and one of spleen in the opposite one, in a volume of 24 x 20 x 20."""
    label = np.zeros((24, 20, 20), dtype=np.uint8)
    label[:6, :6, :6] = LIVER
    label[-8:, -8:, -8:] = SPLEEN
    return store_arrays(
        folder / f"case{number}", np.random.default_rng(number).normal(size=label.shape), label, classes
    )


def in_order(*starts):
    """Candidates one after the other, and a list of those that were asked for."""
    asked = []

    def draw():
        asked.append(np.array(starts[len(asked)]))
        return asked[-1]

    return draw, asked


def test_the_batches_of_older_versions_stay_what_they_were(tmp_path, preset):
    """Computed before there was a choice."""
    preset, digest = replace(preset, foreground_fraction=2 / 3), hashlib.blake2b(digest_size=8)
    cases = []
    for number in range(3):
        image = np.random.default_rng(number).normal(0, 1, (20, 18, 16)) + 10 * number
        label = np.zeros(image.shape, dtype=np.uint8)
        label[-6:, -6:, -6:] = LIVER
        label[-2, -3, -4] = LIVER_TUMOR
        cases.append(store_arrays(tmp_path / f"case{number}", image, label, ("liver", "liver_tumor"), number))
    for step in range(4):
        batch = PatchSampler(cases, preset, seed=3, site="a").batch(step)
        digest.update(batch.image.numpy().tobytes() + batch.label.long().numpy().tobytes())
    assert digest.hexdigest() == "b80edabd5c2851c9"


def test_oversampling_takes_the_first_candidate_without_a_look(tmp_path, preset):
    draw, asked = in_order((9, 9, 9))
    assert kept_start(None, preset, draw).tolist() == [9, 9, 9]
    assert len(asked) == 1


def test_the_share_of_foreground_counts_annotated_classes_inside_of_the_volume(tmp_path):
    case = case_of(tmp_path)
    assert foreground_share(case, np.array([0, 0, 0]), (8, 8, 8)) == 6**3 / 8**3
    assert foreground_share(case, np.array([3, 2, 0]), (8, 8, 8)) == 3 * 4 * 6 / 8**3
    assert foreground_share(case, np.array([-4, 0, 0]), (8, 8, 8)) == 4 * 6 * 6 / 8**3
    assert foreground_share(case, np.array([16, 12, 12]), (8, 8, 8)) == 0, "the case does not annotate the spleen"


def test_the_coverage_is_that_of_the_class_that_lies_in_the_patch_most(tmp_path):
    case = case_of(tmp_path, classes=("liver", "spleen"))
    assert best_coverage(case, np.array([0, 0, 0]), (8, 8, 8)) == 1
    assert best_coverage(case, np.array([3, 0, 0]), (8, 8, 8)) == 0.5
    assert best_coverage(case, np.array([12, 12, 12]), (8, 8, 8)) == 0.5
    assert best_coverage(case, np.array([0, 0, 0]), (24, 16, 20)) == 1
    assert best_coverage(case, np.array([8, 0, 0]), (4, 4, 4)) == 0


def test_the_coverage_of_a_large_organ_is_estimated_without_bias(tmp_path, monkeypatch):
    """500 of 8,000 voxels are listed; a quarter of the organ lies in the patch."""
    monkeypatch.setattr(stored_case, "FOREGROUND_VOXELS", 500)
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[2:22, 2:22, 2:22] = LIVER
    case = store_arrays(tmp_path / "large", np.zeros(label.shape), label, ("liver",))
    assert len(case.foreground(LIVER)) == 500
    assert abs(best_coverage(case, np.array([0, 0, 0]), (12, 12, 24)) - 0.25) < 0.06


@pytest.mark.parametrize("rule", RULES)
def test_candidates_are_drawn_until_one_has_enough(tmp_path, preset, rule):
    draw, asked = in_order((8, 8, 8), (5, 5, 5), (1, 0, 0), (0, 0, 0))
    start = kept_start(case_of(tmp_path), replace(preset, patch_keep=rule), draw)
    assert start.tolist() == [1, 0, 0]
    assert len(asked) == 3


@pytest.mark.parametrize(("rule", "fraction"), [("fg_voxel_fraction", 6**3 / 8**3), ("organ_coverage", 1.0)])
def test_enough_is_more_than_the_fraction_and_else_the_first_of_the_best_is_taken(tmp_path, preset, rule, fraction):
    starts = [(9, 9, 9), (3, 0, 0), (0, 0, 0), (5, 5, 5)] + [(2, 0, 0)] * MAX_CANDIDATES
    draw, asked = in_order(*starts)
    start = kept_start(case_of(tmp_path), replace(preset, patch_keep=rule, patch_keep_fraction=fraction), draw)
    assert start.tolist() == [0, 0, 0]
    assert len(asked) == MAX_CANDIDATES


@pytest.mark.parametrize("rule", RULES)
def test_a_case_without_foreground_still_gives_a_patch(tmp_path, preset, rule):
    empty = store_arrays(tmp_path / "empty", np.zeros((20,) * 3), np.zeros((20,) * 3, np.uint8), ("liver",))
    batch = PatchSampler([empty], replace(preset, patch_keep=rule), seed=0, site="a").batch(0)
    assert batch.image.shape == (2, 1, 8, 8, 8)
    assert not batch.label.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("augmentation", ["none", "segviz"])
def test_a_batch_is_a_function_of_seed_site_and_step(tmp_path, preset, rule, augmentation):
    preset = replace(preset, patch_keep=rule, augmentation=augmentation)
    cases = [case_of(tmp_path, number) for number in range(2)]
    first = PatchSampler(cases, preset, seed=1, site="a")
    for step in range(3):
        first.batch(step)
    again = PatchSampler(cases, preset, seed=1, site="a").batch(3)
    assert torch.equal(first.batch(3).image, again.image)
    assert not torch.equal(first.batch(4).image, again.image)


def test_the_rules_show_more_of_the_organ(tmp_path, preset):
    """Chance meets the corner block rarely; both rules nearly always."""
    case, seen = case_of(tmp_path), {}
    for rule in ("nnunet_oversample", *RULES):
        sampler = PatchSampler([case], replace(preset, patch_keep=rule), seed=0, site="a")
        labels = torch.cat([sampler.batch(step).label for step in range(60)])
        seen[rule] = (labels == LIVER).float().mean().item()
    assert seen["fg_voxel_fraction"] > 2 * seen["nnunet_oversample"]
    assert seen["organ_coverage"] > 2 * seen["nnunet_oversample"]


def test_every_rule_of_a_preset_is_known():
    rules = get_args(get_type_hints(Preset)["patch_keep"])
    assert set(rules) == {"nnunet_oversample", *SCORES}
    assert set(SCORES) == set(RULES)
