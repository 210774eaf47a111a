"""Whole-volume inference and the quick Dice, with networks whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from tiny_hospital import store_arrays, write_nifti, write_site
from torch import nn

from federation import TINY
from fedpartial.data.store import prepare_cases
from fedpartial.training.evaluator import case_dice, mean_dice, predict_logits, predict_on_original_grid, quick_scores
from fedpartial.training.precision import Precision

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
PRESET = replace(TINY, patch=(8, 8, 8))
CHANNELS = PRESET.label_space.num_channels
LIVER, TUMOUR, SPLEEN = (PRESET.label_space.index(name) for name in ("liver", "liver_tumor", "spleen"))


class Oracle(nn.Module):
    """Takes the image for the label: one-hot of its rounded values, air (padding) being background."""

    def __init__(self, table: dict[int, int] | None = None):
        super().__init__()
        self.table = table or {}

    def forward(self, image):
        channel = image[:, 0].round().clamp(0, CHANNELS - 1).long()
        for source, target in self.table.items():
            channel = torch.where(channel == source, target, channel)
        return nn.functional.one_hot(channel, CHANNELS).movedim(-1, 1).float()


def label_volume(shape=(13, 11, 9)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2:10, 3:9, 2:7] = LIVER
    label[4:6, 4:6, 3:5] = TUMOUR
    return label


@pytest.fixture
def case(tmp_path):
    """A liver case whose image is its label."""
    label = label_volume()
    return store_arrays(tmp_path / "case", label.astype(np.float16), label, ("liver", "liver_tumor"))


def test_a_network_that_gives_the_label_scores_one(case):
    assert quick_scores(Oracle(), [case, case], PRESET, CPU) == {"liver": [1.0, 1.0], "liver_tumor": [1.0, 1.0]}


def test_logits_cover_the_volume_whatever_its_size(tmp_path):
    """Smaller than the patch on one axis, several windows on another."""
    for number, shape in enumerate([(13, 11, 9), (5, 21, 8), (3, 3, 3)]):
        label = label_volume(shape)
        one = store_arrays(tmp_path / str(number), label.astype(np.float16), label, ("liver",))
        logits = predict_logits(Oracle(), one.image, PRESET, CPU)
        assert logits.shape == (CHANNELS, *shape)
        assert logits.dtype == torch.float32
        assert np.array_equal(logits.argmax(0).numpy(), label)


def test_padding_is_air(tmp_path):
    seen = []

    class Watching(Oracle):
        def forward(self, image):
            seen.append(image.min().item())
            return super().forward(image)

    label = label_volume((5, 5, 5))
    one = store_arrays(tmp_path / "one", label.astype(np.float16), label, ("liver",))
    predict_logits(Watching(), one.image, PRESET, CPU)
    assert seen == [pytest.approx(PRESET.air)]


def test_the_network_is_in_evaluation_mode_and_records_no_gradient(case):
    seen = []

    class Watching(Oracle):
        def forward(self, image):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(image)

    network = Watching().train()
    quick_scores(network, [case], PRESET, CPU)
    assert set(seen) == {(False, False)}


def test_dice_is_the_mean_over_the_cases_that_count(tmp_path):
    """Case 0 has a tumour that is missed (0); case 1 has none and none is found (left out); liver is 1 at both."""
    label = label_volume()
    without = np.where(label == TUMOUR, LIVER, label)
    missed = [
        store_arrays(tmp_path / str(i), x.astype(np.float16), x, ("liver", "liver_tumor"))
        for i, x in enumerate((label, without))
    ]
    found = mean_dice(quick_scores(Oracle({TUMOUR: 0}), missed, PRESET, CPU))
    liver = int((label == LIVER).sum())
    assert found == {"liver": 1.0, "liver_tumor": 0.0}
    swollen = mean_dice(quick_scores(Oracle({TUMOUR: LIVER}), missed, PRESET, CPU))
    assert swollen["liver"] == pytest.approx((2 * liver / (2 * liver + 8) + 1) / 2)


def test_a_class_without_a_scored_case_is_left_out(tmp_path):
    label = label_volume()
    nothing = np.zeros_like(label)
    clean = store_arrays(tmp_path / "clean", nothing.astype(np.float16), nothing, ("liver", "spleen"))
    assert quick_scores(Oracle(), [clean], PRESET, CPU) == {}
    assert quick_scores(Oracle(), [], PRESET, CPU) == mean_dice({}) == {}
    false = store_arrays(tmp_path / "false", label.astype(np.float16), nothing, ("liver", "spleen"))
    assert quick_scores(Oracle(), [false], PRESET, CPU) == {"liver": [0.0]}, "a false positive scores 0"


def test_only_labelled_classes_are_scored(tmp_path):
    label = label_volume()
    one = store_arrays(tmp_path / "one", label.astype(np.float16), label, ("liver_tumor",))
    assert quick_scores(Oracle(), [one], PRESET, CPU) == {"liver_tumor": [1.0]}


def test_stop_ends_between_two_cases(case):
    answers = iter([False, True])
    assert quick_scores(Oracle(), [case, case, case], PRESET, CPU, lambda: next(answers)) == {
        "liver": [1.0],
        "liver_tumor": [1.0],
    }
    assert next(answers, "used up") == "used up"


def test_case_dice_by_hand():
    prediction, label = np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 1), np.uint8)
    prediction[0] = LIVER
    label[:, 0] = LIVER
    assert case_dice(prediction, label, PRESET.label_space.labelled_mask(["liver", "spleen"]), PRESET) == {"liver": 0.5}


@pytest.fixture
def oblique_site(tmp_path):
    """One case in LPS orientation with voxels of 3 x 2 x 4 mm; the image is 200 HU where the liver is, else 0."""
    label = np.zeros((9, 13, 7), np.uint8)
    label[2:6, 3:11, 1:4] = 1
    affine = np.diag([-3.0, -2.0, 4.0, 1.0])
    affine[:3, 3] = 40.0, 50.0, -60.0
    root = tmp_path / "hospital"
    write_nifti(root / "a.nii.gz", (200 * label).astype(np.int16), affine)
    write_nifti(root / "a_label.nii.gz", label, affine)
    return write_site(root, {"training": [{"image": "a.nii.gz", "label": "a_label.nii.gz"}]})


class Threshold(nn.Module):
    """Liver where the normalised image is above 0, which is 100 HU."""

    def forward(self, image):
        logits = torch.zeros(len(image), CHANNELS, *image.shape[2:])
        logits[:, LIVER], logits[:, 0] = image[:, 0], -image[:, 0]
        logits[:, SPLEEN] = -10.0
        return logits


def test_a_prediction_lies_on_the_grid_of_its_image_file(oblique_site):
    (case,) = prepare_cases(oblique_site, PRESET).training
    assert case.image.shape != (9, 13, 7), "another grid, or this test shows nothing"
    (prediction,) = predict_on_original_grid(Threshold(), case, PRESET, CPU)
    reference = np.asarray(nibabel.load(oblique_site.data_root / "a_label.nii.gz").dataobj)
    assert (prediction.shape, prediction.dtype) == (reference.shape, np.uint8)
    assert set(np.unique(prediction)) == {0, LIVER}
    dice = 2 * ((prediction == LIVER) & (reference == 1)).sum() / ((prediction == LIVER).sum() + reference.sum())
    assert dice > 0.85
    centres = [np.argwhere(volume > 0).mean(0) for volume in (prediction, reference)]
    np.testing.assert_allclose(*centres, atol=0.5)


def test_scores_are_plain_numbers(case):
    assert json.dumps(mean_dice(quick_scores(Oracle(), [case], PRESET, CPU))) == '{"liver": 1.0, "liver_tumor": 1.0}'
