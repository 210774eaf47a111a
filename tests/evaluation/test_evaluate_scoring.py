"""Predictions scored from files: what is comparable, which file belongs to which case, and what its values mean."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedpartial.data.datalist import Case
from fedpartial.data.faults import Fault
from fedpartial.data.label_names import embed_names
from fedpartial.data.side_by_side import in_processes
from fedpartial.errors import ConfigError
from fedpartial.evaluation.comparable import comparable, with_lesions
from fedpartial.evaluation.evaluation_record import validate_evaluation
from fedpartial.evaluation.metrics import score_case
from fedpartial.evaluation.prediction_files import case_names, find_prediction, named_values, read_meaning
from fedpartial.evaluation.private_paths import without_folders
from fedpartial.evaluation.scored_case import ScoreTask, score_files
from fedpartial.labels import LabelSpace, Organ

SPACE = LabelSpace(organs=(Organ(name="liver", lesions=("tumor",)), Organ(name="spleen")))
SIDED = LabelSpace(organs=(Organ(name="kidney", lesions=("cyst",), sides=True),), merge_lesions=True)
LIVER, TUMOR, SPLEEN = 1, 2, 3
AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])
EVERYTHING = ("liver", "tumor", "spleen")


def scored_on(annotated, named=EVERYTHING, lesions="auto"):
    how = comparable(SPACE, SPACE.labelled_mask(annotated), named, lesions)
    return SPACE.names(how.labelled), how.fold[TUMOR], how.merged, how.unknown


@pytest.mark.parametrize(
    ("annotated", "named", "lesions", "expected"),
    [
        (("liver", "tumor"), EVERYTHING, "auto", (("liver", "tumor"), TUMOR, (), ())),
        (("liver", "spleen"), EVERYTHING, "auto", (("liver", "spleen"), LIVER, ("liver",), ())),
        (("liver", "tumor"), ("liver", "spleen"), "auto", (("liver",), LIVER, ("liver",), ())),
        (("tumor",), EVERYTHING, "auto", (("tumor",), TUMOR, (), ())),
        (("liver", "tumor"), EVERYTHING, "merge", (("liver",), LIVER, ("liver",), ())),
        (("liver",), EVERYTHING, "keep", (("liver",), TUMOR, (), ())),
        (("liver", "spleen"), ("liver", "tumor"), "auto", (("liver",), LIVER, ("liver",), ("spleen",))),
        (("tumor",), EVERYTHING, "merge", ((), LIVER, (), ())),
    ],
    ids=["both know", "AMOS", "union model", "lesions only", "merge", "keep", "spleen unknown", "nothing left"],
)
def test_what_a_case_is_scored_on(annotated, named, lesions, expected):
    assert scored_on(annotated, named, lesions) == expected


def test_organs_are_scored_with_their_lesions_too_where_both_are_annotated():
    both = comparable(SPACE, SPACE.labelled_mask(EVERYTHING), EVERYTHING, "auto")
    together = with_lesions(SPACE, both)
    assert (SPACE.names(together.labelled), together.fold.tolist()) == (("liver",), [0, LIVER, LIVER, SPLEEN])
    assert with_lesions(SPACE, comparable(SPACE, SPACE.labelled_mask(["liver"]), EVERYTHING, "auto")) is None


def save(path: Path, array: np.ndarray, affine=AFFINE, names=None) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    if names:
        embed_names(image, names, preset="abdomen")
    nibabel.save(image, path)
    return path


def volumes() -> tuple[np.ndarray, np.ndarray]:
    """Reference and a prediction one voxel beside it, with a tumour inside the liver each."""
    reference = np.zeros((12, 14, 10), np.uint8)
    reference[2:8, 3:9, 2:7] = LIVER
    reference[3:6, 4:7, 3:5] = TUMOR
    reference[9:11, 10:13, 2:6] = SPLEEN
    return reference, np.roll(reference, 1, axis=1)


@pytest.fixture
def task(tmp_path) -> ScoreTask:
    """The reference has values of its own; the prediction those of the space, in bytes of another kind."""
    reference, prediction = volumes()
    values = np.array([0, 6, 9, 4], np.int16)
    return ScoreTask(
        name="a",
        site="here",
        split="testing",
        image=tmp_path / "image.nii.gz",
        prediction=save(tmp_path / "a_labels.nii.gz", prediction.astype(np.float32)),
        reference=save(tmp_path / "a.nii.gz", values[reference]),
        space=SPACE,
        prediction_table=SPACE.table({1: "liver", 2: "tumor", 3: "spleen"}, where="prediction"),
        reference_table=SPACE.table({6: "liver", 9: "tumor", 4: "spleen"}, where="site"),
        comparable=comparable(SPACE, SPACE.labelled_mask(EVERYTHING), EVERYTHING, "auto"),
    )


def test_files_give_the_scores_of_their_arrays(task):
    reference, prediction = volumes()
    options = {"spacing_mm": (2.0, 1.0, 3.0), "space": SPACE, "labelled": SPACE.labelled_mask(EVERYTHING)}
    found = score_files(task)
    assert found.scores == score_case(prediction, reference, **options)
    liver = [np.isin(v, (LIVER, TUMOR)).astype(np.uint8) for v in (prediction, reference)]
    whole = score_case(*liver, **{**options, "labelled": SPACE.labelled_mask(["liver"])})
    assert found.organs.dice == pytest.approx(whole.dice)
    assert found.organs.hd95_mm == whole.hd95_mm


def test_lesions_of_a_model_belong_to_the_organ_of_a_reference_without_lesions(task, tmp_path):
    """AMOS: the reference calls the tumour liver; a prediction that finds both is right."""
    reference, _ = volumes()
    save(task.prediction, reference)
    save(task.reference, np.where(reference == TUMOR, LIVER, reference))
    table = SPACE.table({1: "liver", 3: "spleen"}, where="site")
    how = comparable(SPACE, SPACE.labelled_mask(["liver", "spleen"]), EVERYTHING, "auto")
    found = score_files(replace(task, reference_table=table, comparable=how))
    assert (found.scores.dice, found.organs) == ({"liver": 1.0, "spleen": 1.0}, None)


def test_right_and_left_are_told_apart_in_a_reference_that_does_not_name_them(task, tmp_path):
    """Two kidneys 100 mm apart, one value in the reference, two in the prediction; a mirrored affine included."""
    kidneys = np.zeros((60, 10, 10), np.uint8)
    kidneys[5:15, 2:8, 2:8], kidneys[45:55, 2:8, 2:8] = 1, 2
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    save(task.prediction, kidneys, affine)
    save(task.reference, (kidneys > 0).astype(np.uint8), affine)
    tables = [SIDED.table(n, where="x") for n in ({1: "kidney_right", 2: "kidney_left"}, {1: "kidney"})]
    how = comparable(SIDED, SIDED.labelled_mask(["kidney"]), ["kidney_right", "kidney_left"], "auto")
    sided = replace(task, space=SIDED, prediction_table=tables[0], reference_table=tables[1], comparable=how)
    assert score_files(sided).scores.dice == {"kidney_right": 1.0, "kidney_left": 1.0}


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda path: save(path, volumes()[1][1:]), "shape"),
        (lambda path: save(path, volumes()[1], np.diag([2.0, 2.0, 3.0, 1.0])), "affine"),
        (lambda path: save(path, volumes()[1] * 7), "values"),
        (lambda path: save(path, volumes()[1] * np.float32(0.5)), "values"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "prediction"),
    ],
    ids=["other shape", "other spacing", "unnamed values", "fractions", "cut short"],
)
def test_a_broken_prediction_is_one_fault_with_its_name(task, damage, field):
    damage(task.prediction)
    (fault,) = score_files(task)
    assert (fault.file, fault.field) == (task.prediction, field)


def case(root: Path, image: str, label: str) -> Case:
    return Case(index=0, split="testing", image=root / image, label=root / label, labels=None)


@pytest.mark.parametrize("file", ["ct_1_labels.nii.gz", "ct_1.nii", "seg_1.nii.gz"])
def test_a_prediction_is_found_by_the_image_or_by_the_label(tmp_path, file):
    one = case(tmp_path, "images/ct_1.nii.gz", "labels/seg_1.nii.gz")
    (tmp_path / file).touch()
    assert find_prediction(tmp_path, one, "ct_1") == tmp_path / file


def test_images_and_references_are_no_predictions(tmp_path):
    """--predictions may name a folder in which they lie too; scored against itself a reference would be perfect."""
    one = case(tmp_path, "ct.nii.gz", "seg.nii.gz")
    nothing = find_prediction(tmp_path, one, "ct")
    assert "ct_labels.nii.gz" in nothing.expected
    for file, what in ((one.label, "the reference itself"), (one.image, "the image itself")):
        file.touch()
        fault = find_prediction(tmp_path, one, "ct")
        assert isinstance(fault, Fault)
        assert (fault.file, fault.got) == (file, what)


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """KiTS: every image is imaging.nii.gz. A prediction may be called after the folder."""
    cases = [case(tmp_path, f"case_{i}/imaging.nii.gz", f"case_{i}/segmentation.nii.gz") for i in (1, 2)]
    assert case_names(cases) == ["case_1_imaging", "case_2_imaging"]
    (tmp_path / "case_2.nii.gz").touch()
    assert find_prediction(tmp_path, cases[1], "case_2_imaging") == tmp_path / "case_2.nii.gz"
    assert isinstance(find_prediction(tmp_path, cases[0], "case_1_imaging"), Fault)


def test_the_header_says_what_values_mean(tmp_path):
    array = volumes()[0]
    ours = save(tmp_path / "ours.nii.gz", array, names={1: "liver", 2: "tumor"})
    assert read_meaning(ours)["labels"] == {1: "liver", 2: "tumor"}
    assert read_meaning(shutil.copy(ours, tmp_path / "renamed.nii.gz"))["preset"] == "abdomen"
    assert read_meaning(save(tmp_path / "theirs.nii.gz", array)) is None
    (tmp_path / "broken.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="readable NIfTI"):
        read_meaning(tmp_path / "broken.nii.gz")


def test_labels_can_be_named_on_the_command_line():
    assert named_values("1=liver, 2 = tumor") == {1: "liver", 2: "tumor"}


@pytest.mark.parametrize("text", ["", "1", "liver=1", "1=liver,1=spleen", "1=", "²=liver"])
def test_labels_that_are_not_understood_are_refused(text):
    with pytest.raises(ConfigError, match="value=class"):
        named_values(text)


def test_results_are_the_same_from_two_processes():
    assert sorted(in_processes(abs, [-1, -2, -3], 2)) == sorted(in_processes(abs, [-1, -2, -3], 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/Meier/ct.nii.gz: label: got /data/Meier/labels/a.nii.gz", "ct.nii.gz: label: got labels/a.nii.gz"),
        ("/data/Meier: a: got nothing", "Meier: a: got nothing"),
        ("/data/Meier2/ct.nii.gz: a", "/data/Meier2/ct.nii.gz: a"),
        ("pred/ct.nii.gz: got other_pred/x", "ct.nii.gz: got other_pred/x"),
    ],
)
def test_folders_are_taken_out_of_a_text(text, expected):
    assert without_folders(text, [Path("/data/Meier"), Path("pred"), Path(".")]) == expected


def test_the_schema_refuses_what_is_not_in_it():
    with pytest.raises(ValueError, match="cases"):
        validate_evaluation({})
