"""Scores of a case: by hand, against MONAI, and what partial labels and empty classes mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from fedpartial.evaluation import distances
from fedpartial.evaluation.metrics import CaseScores, score_case, surface_distances
from fedpartial.labels import LabelSpace, Organ
from fedpartial.presets import ABDOMEN

SPACE = LabelSpace(organs=(Organ(name="liver", lesions=("tumor",)), Organ(name="spleen")))
ALL = SPACE.labelled_mask(SPACE.classes)
ISOTROPIC = (1.0, 1.0, 1.0)


def score(prediction, reference, *, spacing_mm=ISOTROPIC, labelled=ALL, **options) -> CaseScores:
    prediction, reference = (np.asarray(v, np.uint8) for v in (prediction, reference))
    return score_case(prediction, reference, spacing_mm=spacing_mm, space=SPACE, labelled=labelled, **options)


def cube(shape, low, high, channel=1) -> np.ndarray:
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = channel
    return volume


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random prediction and reference with all eight channels."""
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(8)])
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(8)])
    return (fields + 0.4 * noise).argmax(0).astype(np.uint8), fields.argmax(0).astype(np.uint8)


def test_single_voxels_three_apart_along_each_axis():
    """Distance = voxels x spacing of that axis; both percentiles and the mean are that one distance."""
    for axis, spacing in enumerate((2.0, 0.5, 5.0)):
        reference, prediction = np.zeros((2, 7, 7, 7), np.uint8)
        reference[3, 3, 3] = 1
        prediction[tuple(3 + 3 * (a == axis) for a in range(3))] = 1
        scores = score(prediction, reference, spacing_mm=(2.0, 0.5, 5.0))
        assert (scores.hd95_mm["liver"], scores.assd_mm["liver"]) == (3 * spacing, 3 * spacing)
        assert (scores.dice["liver"], scores.status["liver"]) == (0.0, "scored")


def test_two_cubes_by_hand():
    """Two 2x2x2 cubes, all surface, one voxel (3 mm) apart: half the voxels coincide, half are 3 mm away."""
    reference, prediction = cube((6, 6, 6), (1, 1, 1), (3, 3, 3)), cube((6, 6, 6), (2, 1, 1), (4, 3, 3))
    scores = score(prediction, reference, spacing_mm=(3.0, 1.0, 1.0))
    assert scores.dice["liver"] == 0.5
    assert scores.hd95_mm["liver"] == 3.0
    assert scores.assd_mm["liver"] == 1.5


def test_inner_voxels_are_not_surface():
    """A 3x3x3 cube in a 5x5x5 cube: 26 shell voxels are 1 away; outward 54 on faces 1, 36 on edges √2, 8 corners √3."""
    reference, prediction = cube((9, 9, 9), (2, 2, 2), (7, 7, 7)), cube((9, 9, 9), (3, 3, 3), (6, 6, 6))
    hd95, assd = surface_distances(prediction == 1, reference == 1, ISOTROPIC)
    assert assd == pytest.approx((26 + 54 + 36 * 2**0.5 + 8 * 3**0.5) / (26 + 98))
    outward = np.sort([1.0] * 54 + [2**0.5] * 36 + [3**0.5] * 8)
    assert hd95 == pytest.approx(np.percentile(outward, 95))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_distances_agree_with_monai_on_blobs():
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    rng, spacing, checked = np.random.default_rng(0), (1.1, 2.3, 0.7), 0
    for shape in ((20, 17, 14), (9, 24, 15)):
        prediction, reference = blobs(rng, shape)
        scores = score_case(
            prediction, reference, spacing_mm=spacing, space=ABDOMEN, labelled=ABDOMEN.labelled_mask(ABDOMEN.classes)
        )
        one_hot = [torch.stack([torch.tensor(v == c) for c in range(8)])[None].float() for v in (prediction, reference)]
        hd95 = compute_hausdorff_distance(*one_hot, percentile=95, directed=False, spacing=spacing)[0]
        assd = compute_average_surface_distance(*one_hot, symmetric=True, spacing=spacing)[0]
        for i, name in enumerate(ABDOMEN.classes):
            assert scores.status[name] == "scored"
            assert scores.assd_mm[name] == pytest.approx(assd[i].item(), rel=1e-6)
            # MONAI interpolates the percentile at a float32 rank, which moves it by some 1e-6.
            assert scores.hd95_mm[name] == pytest.approx(hd95[i].item(), rel=1e-5)
            checked += 1
    assert checked == 14


def by_transform(prediction, reference, spacing):
    """HD95 and ASSD by SciPy's distance transform of the uncropped volume."""
    surfaces = [m & ~ndimage.binary_erosion(m) for m in (prediction, reference)]
    maps = [ndimage.distance_transform_edt(~s, sampling=spacing) for s in surfaces]
    directed = maps[1][surfaces[0]], maps[0][surfaces[1]]
    return max(np.percentile(d, 95) for d in directed), np.concatenate(directed).mean()


def random_pairs(rng):
    """Structures of one case: smooth ones, specks, single voxels, and ones that touch every border of the array."""
    smooth = [v == 3 for v in blobs(rng, (18, 15, 12))]
    specks = [rng.random((9, 14, 6)) < share for share in (0.02, 0.3)]
    single = np.zeros((2, 7, 8, 9), bool)
    single[0, 0, 7, 4] = single[1, 6, 0, 8] = True
    everything = [np.ones((6, 5, 4), bool), cube((6, 5, 4), (0, 0, 0), (6, 1, 4)) == 1]
    return smooth, specks, list(single), everything, [single[0], np.ones((7, 8, 9), bool)]


@pytest.mark.parametrize("voxel_us", [0.0, 1e9], ids=["transform", "tree"])
def test_distances_are_those_of_scipy_whichever_way_they_are_found(monkeypatch, voxel_us):
    monkeypatch.setattr(distances, "_VOXEL_US", voxel_us)
    rng, checked = np.random.default_rng(1), 0
    for prediction, reference in random_pairs(rng):
        for spacing in (ISOTROPIC, (0.9, 1.7, 3.1), (5.0, 0.3, 0.3)):
            hd95, assd = surface_distances(prediction, reference, spacing)
            assert (hd95, assd) == pytest.approx(by_transform(prediction, reference, spacing), abs=1e-9)
            checked += 1
    assert checked == 15


def test_each_way_is_taken_where_it_is_faster(monkeypatch):
    """A structure beside its prediction asks a tree; a prediction that fills the scan has its box transformed."""
    taken = []
    transform = distances._transformed
    monkeypatch.setattr(distances, "_transformed", lambda *given: taken.append(1) or transform(*given))
    shape = (60, 60, 60)
    reference = cube(shape, (5, 5, 5), (55, 55, 55)) == 1
    surface_distances(cube(shape, (6, 5, 5), (56, 55, 55)) == 1, reference, ISOTROPIC)
    assert not taken
    surface_distances(np.random.default_rng(0).random(shape) < 0.4, reference, ISOTROPIC)
    assert taken == [1]  # its voxels are far from the reference's, not the other way round


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_which_voxels_are_stored_changes_nothing(order):
    """NIfTI files are read in Fortran order; a volume with an empty border is scored as without it."""
    prediction, reference = blobs(np.random.default_rng(4), (14, 12, 10))
    options = {"spacing_mm": (1.0, 2.0, 3.0), "space": ABDOMEN, "labelled": ABDOMEN.labelled_mask(ABDOMEN.classes)}
    within = [np.pad(v, ((3, 1), (0, 2), (4, 4))) for v in (prediction, reference)]
    plain = score_case(*within, **options)
    stored = score_case(*(np.asarray(v, order=order) for v in within), **options)
    for field in ("dice", "hd95_mm", "assd_mm", "leakage"):
        assert getattr(stored, field) == pytest.approx(getattr(plain, field), rel=1e-12)


def test_permuting_and_flipping_axes_with_their_spacing_changes_nothing():
    prediction, reference = blobs(np.random.default_rng(2), (14, 12, 10))
    options = {"space": ABDOMEN, "labelled": ABDOMEN.labelled_mask(["liver", "kidney"])}
    straight = score_case(prediction, reference, spacing_mm=(1.0, 2.0, 3.0), **options)
    turned = [v.transpose(2, 0, 1)[::-1] for v in (prediction, reference)]
    other = score_case(*turned, spacing_mm=(3.0, 1.0, 2.0), **options)
    assert other.status == straight.status
    for field in ("dice", "hd95_mm", "assd_mm", "leakage"):
        assert getattr(other, field) == pytest.approx(getattr(straight, field), rel=1e-12)


def test_dice_agrees_with_its_definition():
    prediction, reference = blobs(np.random.default_rng(3), (14, 12, 10))
    labelled = ABDOMEN.labelled_mask(ABDOMEN.classes)
    scores = score_case(prediction, reference, spacing_mm=ISOTROPIC, space=ABDOMEN, labelled=labelled)
    for name in ABDOMEN.classes:
        p, r = prediction == ABDOMEN.index(name), reference == ABDOMEN.index(name)
        assert scores.dice[name] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))


@pytest.mark.parametrize(("empty_class", "dice"), [("exclude", None), ("zero", 0.0)])
def test_false_positive_follows_the_policy(empty_class, dice):
    scores = score([[[1, 0]]], [[[0, 0]]], empty_class=empty_class)
    assert (scores.status["liver"], scores.dice["liver"]) == ("false_positive", dice)
    assert (scores.hd95_mm["liver"], scores.assd_mm["liver"], scores.leakage["liver"]) == (None, None, None)


@pytest.mark.parametrize("empty_class", ["exclude", "zero"])
def test_missed_is_zero_and_absent_is_undefined_under_both_policies(empty_class):
    scores = score([[[0, 0]]], [[[1, 0]]], empty_class=empty_class)
    assert (scores.status["liver"], scores.dice["liver"], scores.hd95_mm["liver"]) == ("missed", 0.0, None)
    assert (scores.status["spleen"], scores.dice["spleen"], scores.leakage["spleen"]) == ("absent", None, None)


def test_unlabelled_classes_are_not_scored_whatever_is_predicted():
    labelled = SPACE.labelled_mask(["liver"])
    reference = cube((4, 4, 4), (0, 0, 0), (2, 2, 2))
    quiet, loud = reference.copy(), reference.copy()
    loud[3] = SPACE.index("spleen")
    assert score(loud, reference, labelled=labelled) == score(quiet, reference, labelled=labelled)
    assert score(loud, reference, labelled=labelled).classes == ("liver",)


def test_leakage_by_hand():
    """2x2x1: of the liver's three voxels one is liver, one spleen (a leak), one background (a miss)."""
    scores = score([[[1], [3]], [[0], [0]]], [[[1], [1]], [[1], [0]]], labelled=SPACE.labelled_mask(["liver"]))
    assert scores.leakage == {"liver": pytest.approx(1 / 3)}


def test_leakage_counts_the_lesion_of_an_organ_and_needs_no_distance():
    scores = score([[[2], [2]], [[2], [0]]], [[[1], [1]], [[1], [1]]])
    assert (scores.status["liver"], scores.leakage["liver"]) == ("missed", 0.75)


def test_round_trip_through_strict_json():
    scores = score([[[1, 3]]], [[[1, 0]]])
    text = json.dumps(scores.to_dict(), allow_nan=False)
    assert CaseScores.from_dict(json.loads(text)) == scores


@pytest.mark.parametrize(
    ("field", "value"),
    [("dice", float("nan")), ("hd95_mm", float("inf")), ("assd_mm", -1.0), ("status", "unknown"), ("leakage", "0.1")],
)
def test_from_dict_refuses_wrong_values(field, value):
    values = score([[[1]]], [[[1]]]).to_dict()
    values[field]["liver"] = value
    with pytest.raises(ValueError, match=rf"{field}\.liver"):
        CaseScores.from_dict(values)


def test_from_dict_refuses_unknown_missing_and_uneven_fields():
    values = score([[[1]]], [[[1]]]).to_dict()
    with pytest.raises(ValueError, match="file_name"):
        CaseScores.from_dict(values | {"file_name": "x"})
    with pytest.raises(ValueError, match="leakage"):
        CaseScores.from_dict({k: v for k, v in values.items() if k != "leakage"})
    with pytest.raises(ValueError, match="dice: has classes"):
        CaseScores.from_dict(values | {"dice": {"liver": 1.0}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((2, 2, 3), np.uint8)}, "one shape"),
        ({"prediction": np.zeros((2, 2, 2), np.float32)}, "unsigned"),
        ({"reference": np.full((2, 2, 2), 4, np.uint8)}, "below 4"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
        ({"labelled": [True]}, "labelled"),
        ({"empty_class": "ignore"}, "empty_class"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    volume = np.zeros((2, 2, 2), np.uint8)
    good = {"prediction": volume, "reference": volume, "spacing_mm": ISOTROPIC, "labelled": ALL}
    arguments = good | change
    with pytest.raises(ValueError, match=message):
        score_case(arguments.pop("prediction"), arguments.pop("reference"), space=SPACE, **arguments)
