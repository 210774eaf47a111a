"""The server's own test set: which model answers for a class, what is scored, and which label maps are kept."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny_hospital import write_case, write_nifti

from federation import TINY, tiny_plan
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.server import external_set
from fedpartial.server.external_set import KEPT_PREDICTIONS, PREDICTIONS, ExternalSet, external_site
from fedpartial.sites import phantom_site

PATIENT = "mrs_miller"
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2.5, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]])
SHAPE = (16, 14, 12)
SPACE = TINY.label_space
LIVER, SPLEEN = (SPACE.index(name) for name in ("liver", "spleen"))


def go_on() -> bool:
    return False


def volume(**boxes: tuple[slice, ...]) -> np.ndarray:
    """Channels (H W D), one box of voxels per class, later ones over earlier ones."""
    channels = np.zeros(SHAPE, np.uint8)
    for name, box in boxes.items():
        channels[box] = SPACE.index(name)
    return channels


REFERENCE = volume(
    liver=np.s_[2:6, 2:6, 2:6], liver_tumor=np.s_[4:6, 4:6, 4:6], spleen=np.s_[10:13, 2:5, 2:5]
)  # 56, 8 and 27 voxels


@pytest.fixture
def external(tiny, tmp_path, monkeypatch) -> ExternalSet:
    """Two cases of liver, its tumour and spleen; a model's only tensor is the label map that it predicts."""
    entries = []
    for number in range(2):
        entry = write_case(tmp_path / "data", f"{PATIENT}{number}", seed=number)
        image = np.random.default_rng(number).normal(100, 60, SHAPE).astype(np.float32)
        write_nifti(tmp_path / "data" / entry["image"], image, AFFINE)
        write_nifti(tmp_path / "data" / entry["label"], REFERENCE, AFFINE)
        entries.append(entry)
    (tmp_path / "data/datalist.json").write_text(json.dumps({"training": [], "testing": entries}))
    labels = {str(SPACE.index(name)): name for name in ("liver", "liver_tumor", "spleen")}
    (tmp_path / "local/sites").mkdir(parents=True)
    (tmp_path / "local/sites/external.json").write_text(
        json.dumps({"labels": labels, "data_root": str(tmp_path / "data"), "device": "cpu"})
    )
    monkeypatch.setattr(ExternalSet, "_predict", lambda self, weights, case: [weights["map"]])
    monkeypatch.setattr(external_set, "overlay_picture", lambda *_, **__: b"")
    return ExternalSet(external_site(tmp_path / "local", phantom=False), tiny_plan())


def one_model(prediction: np.ndarray) -> tuple[dict, dict]:
    """Models and owners of a run with a global model."""
    return {"final": {"map": prediction}}, dict.fromkeys(SPACE.classes, "final")


LIVERS = volume(liver=np.s_[2:6, 2:6, 2:6], spleen=np.s_[0:2, 0:2, 0:2])
"""Of the liver's site: the tumour taken for liver, and a spleen that is none."""
SPLEENS = volume(spleen=np.s_[10:13, 2:5, 2:4], liver=np.s_[12:16, 8:12, 8:12])
"""Of the spleen's site: two thirds of the spleen, and a liver that is none."""
MODELS = {"local spleen": {"map": SPLEENS}, "local liver": {"map": LIVERS}}
OWNERS = {"spleen": "local spleen", "liver_tumor": "local liver", "liver": "local liver"}


def saved(folder: Path, name: str) -> nibabel.Nifti1Image:
    return nibabel.load(folder / PREDICTIONS / name)


# --- which set ----------------------------------------------------------------------------------------


def test_the_servers_file_comes_before_the_phantom_and_without_both_there_is_none(external, tmp_path):
    assert external_site(tmp_path / "local", phantom=True).source == "site file"
    assert external_site(tmp_path / "nowhere", phantom=True) == phantom_site("external")
    assert external_site(tmp_path / "nowhere", phantom=False) is None


# --- scores -------------------------------------------------------------------------------------------


def test_a_global_model_answers_for_every_annotated_class(external, tmp_path):
    scores = external.score(*one_model(LIVERS), tmp_path, go_on)
    assert len(scores.cases) == len(scores.organs) == 2
    assert scores.cases[0].dice == {"liver": 2 * 56 / (56 + 64), "liver_tumor": 0.0, "spleen": 0.0}


def test_lesions_count_as_their_organ_in_the_second_scores(external, tmp_path):
    """The tumour that was taken for liver is right there."""
    scores = external.score(*one_model(LIVERS), tmp_path, go_on)
    assert scores.organs[0].dice == {"liver": 1.0, "spleen": 0.0}


def test_each_class_is_scored_with_the_model_that_owns_it_in_channel_order(external, tmp_path):
    scores = external.score(MODELS, OWNERS, tmp_path, go_on)
    expected = {"liver": 2 * 56 / (56 + 64), "liver_tumor": 0.0, "spleen": 2 * 18 / (27 + 18)}
    for case in scores.cases:
        assert case.dice == expected
        assert case.classes == ("liver", "liver_tumor", "spleen")
    assert scores.organs[0].dice == {"liver": 1.0, "spleen": 2 * 18 / (27 + 18)}


def test_a_class_that_nobody_answers_for_has_no_score(external, tmp_path):
    scores = external.score(MODELS, {"spleen": "local spleen"}, tmp_path, go_on)
    assert scores.cases[0].classes == scores.organs[0].classes == ("spleen",)


def test_a_label_space_without_lesions_has_no_second_scores(tiny, external, tmp_path):
    merged = ExternalSet(external.session.site, tiny_plan(merge_lesions=True))
    scores = merged.score(
        {"final": {"map": SPACE.merge_channels(REFERENCE)}},
        dict.fromkeys(SPACE.merged.classes, "final"),
        tmp_path,
        go_on,
    )
    assert scores.organs == []
    assert scores.cases[0].dice == {"liver": 1.0, "spleen": 1.0}


def test_stop_keeps_what_is_done(external, tmp_path):
    answers = iter([False, True])
    scores = external.score(*one_model(LIVERS), tmp_path, lambda: next(answers))
    assert len(scores.cases) == len(scores.organs) == 1


def test_scores_of_several_models_are_joined_field_by_field():
    def part(name: str, dice: float) -> CaseScores:
        return CaseScores(
            dice={name: dice}, hd95_mm={name: 1.0}, assd_mm={name: 0.5}, status={name: "scored"}, leakage={name: 0.0}
        )

    joined = external_set._joined([part("spleen", 0.25), part("liver", 0.5)], SPACE.classes)
    assert list(joined.dice.items()) == [("liver", 0.5), ("spleen", 0.25)]
    assert list(joined.status) == list(joined.hd95_mm) == ["liver", "spleen"]
    assert external_set._joined([], SPACE.classes).classes == ()


# --- label maps ---------------------------------------------------------------------------------------


def test_the_label_map_of_a_global_model_is_what_was_scored_on_the_grid_of_the_image(external, tmp_path):
    scores = external.score(*one_model(LIVERS), tmp_path, go_on)
    for number, case in enumerate(external.session.scored_cases, start=1):
        image = saved(tmp_path, f"external_{number:02d}.nii.gz")
        channels = np.asarray(image.dataobj)
        assert channels.dtype == np.uint8
        np.testing.assert_array_equal(image.affine, AFFINE)
        np.testing.assert_array_equal(image.affine, case.original_affine)
        assert external.session.score_prediction(case, channels) == scores.cases[number - 1]


def test_of_several_models_every_map_is_kept_and_one_of_each_ones_own_classes(external, tmp_path):
    external.score(MODELS, OWNERS, tmp_path, go_on)
    kept = {str(path.relative_to(tmp_path / PREDICTIONS)) for path in tmp_path.rglob("external_*.nii.gz")}
    assert kept == {f"{f}external_0{n}.nii.gz" for f in ("", "local_liver/", "local_spleen/") for n in (1, 2)}
    for name, expected in (("local_liver", LIVERS), ("local_spleen", SPLEENS)):
        np.testing.assert_array_equal(saved(tmp_path, f"{name}/external_01.nii.gz").dataobj, expected)
    together = np.asarray(saved(tmp_path, "external_01.nii.gz").dataobj)
    expected = volume(liver=np.s_[2:6, 2:6, 2:6], spleen=np.s_[10:13, 2:5, 2:4])
    np.testing.assert_array_equal(together, expected)


def test_a_voxel_that_two_models_claim_goes_to_the_later_name(external, tmp_path):
    box = np.s_[3:5, 3:5, 3:5]
    models = {"local spleen": {"map": volume(spleen=box)}, "local liver": {"map": volume(liver=np.s_[2:6, 2:6, 2:6])}}
    external.score(models, OWNERS, tmp_path, go_on)
    together = np.asarray(saved(tmp_path, "external_01.nii.gz").dataobj)
    assert (together[box] == SPLEEN).all()
    assert np.bincount(together.ravel())[[LIVER, SPLEEN]].tolist() == [56, 8]


def test_only_the_first_label_maps_are_kept_and_no_file_names_a_patient(external, tmp_path):
    assert KEPT_PREDICTIONS == 20
    external.score(*one_model(LIVERS), tmp_path / "none", go_on, keep=0)
    assert not (tmp_path / "none").exists()
    scores = external.score(*one_model(LIVERS), tmp_path / "out", go_on, keep=1)
    assert len(scores.cases) == 2
    files = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == ["external_01.nii.gz"]
    assert PATIENT.encode() not in (tmp_path / "out" / PREDICTIONS / files[0]).read_bytes()
