"""``fedpartial evaluate`` as it is typed: tables, files, exit codes, and every mistake in one line."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_hospitals import write_hospitals
from tiny_hospital import write_case
from typer.testing import CliRunner

from federation import tiny_plan
from fedpartial.cli.main import app
from fedpartial.data.label_names import embed_names, read_names
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.model_file import model_info, save_model

NAMES = {1: "liver", 2: "liver_tumor", 3: "spleen"}


def evaluate(*arguments: object, code: int = 0):
    """Runs the command in this process; returns its result, of which the exit code is looked at."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--workers", "1"], terminal_width=200)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def as_json(*arguments: object, code: int = 0) -> dict:
    content = json.loads(evaluate(*arguments, "--json", code=code).stdout)
    assert content["exit_code"] == code
    return content


@pytest.fixture
def liver(tmp_path) -> Path:
    """The site file of a hospital with three test cases; its folder has a space in its name."""
    file = write_hospitals(tmp_path) / "liver.json"
    data = tmp_path / "data" / "liver"
    cases = json.loads((data / "datalist.json").read_text())
    cases["testing"] = [write_case(data, name, seed=9) for name in ("a", "b", "ç 3")]
    (data / "datalist.json").write_text(json.dumps(cases))
    return file


def predict(liver: Path, out: Path, name: str, shift: int = 0, names=NAMES) -> Path:
    """The reference of a case, moved along its first axis, as its prediction."""
    label = nibabel.load(liver.parents[1] / "data" / "liver" / f"{name}_label.nii.gz")
    image = nibabel.Nifti1Image(np.roll(np.asarray(label.dataobj), shift, axis=0), label.affine)
    if names:
        embed_names(image, names, preset="abdomen", model="m.safetensors")
    out.mkdir(exist_ok=True)
    nibabel.save(image, out / f"{name}_labels.nii.gz")
    return out


@pytest.fixture
def labels(liver, tmp_path) -> Path:
    """Predictions of all test cases: perfect, one voxel off, two voxels off."""
    for shift, name in enumerate(("a", "b", "ç 3")):
        predict(liver, tmp_path / "lab els", name, shift)
    return tmp_path / "lab els"


@pytest.fixture
def drawn() -> None:
    """For a test that looks at pictures and figures."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Drawing takes most of the time."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("fedpartial.cli.evaluate_result.draw_cases", lambda _: ({}, []))
        monkeypatch.setattr("fedpartial.evaluation.evaluation_files.draw_figures", lambda _: {})


def test_an_evaluation_has_a_table_two_lists_and_a_page(liver, labels, tmp_path):
    out = tmp_path / "scores"
    result = evaluate(liver, "--predictions", labels, "-o", out)
    for text in ("liver, 3 cases", "liver tumor", "liver + lesions", "--empty-class exclude", "evaluation.html"):
        assert text in result.stdout
    with (out / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["case"], row["class"], row["lesions"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * 3
    assert (rows["a", "liver", "apart"]["dice"], rows["a", "liver", "apart"]["hd95_mm"]) == ("1.0", "0.0")
    assert float(rows["b", "liver", "together"]["dice"]) == pytest.approx(0.8)
    assert "ç 3" in (out / "evaluation.html").read_text(encoding="utf-8")
    for name in ("summary.csv", "evaluation.json"):
        assert (out / name).stat().st_size > 100


@pytest.mark.slow
def test_an_evaluation_has_pictures(liver, labels, tmp_path, drawn):
    out = tmp_path / "scores"
    evaluate(liver, "--predictions", labels, "-o", out)
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 3
    for name in ("worst.png", "median.png", "best.png", "dice.svg", "hd95.svg"):
        assert (out / name).stat().st_size > 100


def test_scripts_get_the_same_numbers(liver, labels, tmp_path):
    content = as_json(liver, "--predictions", labels, "-o", tmp_path / "scores")
    kept = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert {key: content[key] for key in kept} == kept
    assert (kept["preset"], kept["model"], kept["empty_class_policy"]) == ("abdomen", "m.safetensors", "exclude")
    assert kept["classes"]["liver"]["dice"]["n"] == 3
    assert list(kept["classes"]) == ["liver", "liver_tumor"], "the spleen of the predictions is not annotated"
    assert list(kept["organs_with_lesions"]) == ["liver"]


def test_a_broken_case_is_named_and_the_others_are_scored(liver, labels, tmp_path):
    (labels / "a_labels.nii.gz").unlink()
    damaged = labels / "b_labels.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    content = as_json(liver, "--predictions", labels, "-o", tmp_path / "scores", code=2)
    assert [case["case"] for case in content["cases"]] == ["ç 3"]
    assert sorted(error["field"] for error in content["errors"]) == ["a", "prediction"]
    assert len(content["faults"]) == 2
    kept = (tmp_path / "scores" / "evaluation.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in kept, "no name of a folder travels"
    assert content["predictions"] == "lab els"
    assert any(fault.startswith("b_labels.nii.gz: ") for fault in content["faults"])
    assert (tmp_path / "scores" / "evaluation.html").exists()


def test_data_without_lesions_are_scored_on_organs(liver, labels, tmp_path):
    site = json.loads(liver.read_text())
    liver.write_text(json.dumps({**site, "labels": {"1": "liver", "2": "liver"}}))
    content = as_json(liver, "--predictions", labels, "-o", tmp_path / "auto")
    assert list(content["classes"]) == ["liver"]
    assert content["cases"][0]["merged"] == ["liver"]
    assert content["cases"][0]["scores"]["dice"] == {"liver": 1.0}
    assert any("lesions count as the organ in 3 cases" in note for note in content["notes"])
    apart = as_json(liver, "--predictions", labels, "-o", tmp_path / "apart", "--no-merge-lesions")
    assert apart["cases"][0]["scores"]["dice"]["liver"] < 1


def test_foreign_predictions_need_names(liver, tmp_path):
    theirs = predict(liver, tmp_path / "theirs", "a", names=None)
    for name in ("b", "ç 3"):
        predict(liver, theirs, name, names=None)
    out = tmp_path / "scores"
    given = (liver, "--predictions", theirs, "-o", out)
    assert "--prediction-labels 1=liver" in evaluate(*given, code=2).stderr
    assert not out.exists()
    assert as_json(*given, "--prediction-labels", "1=liver,2=liver_tumor")["classes"]["liver"]["dice"]["mean"] == 1.0


def test_the_policy_of_empty_classes_counts(liver, labels, tmp_path):
    """A tumour where the reference has none: out of the mean, or Dice 0."""
    path = tmp_path / "data" / "liver" / "a_label.nii.gz"
    label = nibabel.load(path)
    array = np.minimum(np.asarray(label.dataobj), 1)
    nibabel.save(nibabel.Nifti1Image(array, label.affine), path)
    found = {}
    for policy in ("exclude", "zero"):
        content = as_json(liver, "--predictions", labels, "-o", tmp_path / policy, "--empty-class", policy)
        found[policy] = content["classes"]["liver_tumor"]
        assert any(f"--empty-class {policy}" in note for note in content["notes"])
    assert [found[policy]["dice"]["n"] for policy in ("exclude", "zero")] == [2, 3]
    assert [found[policy]["false_positive"] for policy in ("exclude", "zero")] == [1, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "one of the two"),
        (("--predictions", "nowhere"), "a folder of label maps"),
        (("--predictions", "{labels}", "--model", "m.safetensors"), "one of the two"),
        (("--predictions", "{labels}", "--preset", "abdomne"), "one of phantom"),
        (("--predictions", "{labels}", "--prediction-labels", "1:liver"), "value=class"),
        (("--predictions", "{labels}", "--prediction-labels", "1=lever"), "one of background, liver"),
        (("--predictions", "{labels}", "--prediction-labels", "1=spleen"), "at least one class that both name"),
        (("--model", "{labels}"), "model"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(liver, labels, tmp_path, options, words):
    given = [option.format(labels=labels) for option in options]
    result = evaluate(liver, *given, "-o", tmp_path / "scores", code=2)
    assert words in result.stderr
    assert result.stderr.count("error: ") == 1
    assert not (tmp_path / "scores" / "evaluation.json").exists()


def test_a_wrong_folder_is_not_a_line_for_every_case_of_a_large_data_set(liver, tmp_path):
    data = tmp_path / "data" / "liver"
    cases = json.loads((data / "datalist.json").read_text())
    cases["testing"] = [{"image": f"c{i}.nii.gz", "label": f"l{i}.nii.gz"} for i in range(40)]
    (data / "datalist.json").write_text(json.dumps(cases))
    stderr = evaluate(liver, "--predictions", tmp_path, "-o", tmp_path / "scores", code=2).stderr
    assert stderr.count("error: ") == 6
    assert "35 more of this kind" in stderr


def test_a_split_without_cases_says_which_has_some(liver, labels, tmp_path):
    data = tmp_path / "data" / "liver" / "datalist.json"
    data.write_text(json.dumps({**json.loads(data.read_text()), "testing": []}))
    stderr = evaluate(liver, "--predictions", labels, "-o", tmp_path / "scores", code=2).stderr
    assert "2 training, 2 validation, 0 testing" in stderr


def test_references_are_not_taken_for_predictions(liver, tmp_path):
    stderr = evaluate(liver, "--predictions", tmp_path / "data" / "liver", "-o", tmp_path / "scores", code=2).stderr
    assert stderr.count("the reference itself") + stderr.count("the image itself") == 3


def test_a_folder_that_cannot_be_written_is_found_before_scoring(liver, labels, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpartial.cli.evaluate.score_cases", lambda *_: pytest.fail("scored for nothing"))
    (tmp_path / "file").touch()
    stderr = evaluate(liver, "--predictions", labels, "-o", tmp_path / "file" / "scores", code=2).stderr
    assert "a folder that can be written" in stderr


def test_a_full_disk_among_the_pictures_does_not_lose_the_numbers(liver, labels, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedpartial.cli.evaluate_result.write_page", full)
    result = evaluate(liver, "--predictions", labels, "-o", tmp_path / "scores", "--json", code=1)
    content = json.loads(result.stdout)
    assert content["classes"]["liver"]["dice"]["n"] == 3
    assert json.loads((tmp_path / "scores" / "evaluation.json").read_text())["classes"] == content["classes"]
    assert "the numbers are complete" in result.stderr
    assert "no space left" in content["errors"][0]["message"]


def test_an_evaluation_is_replaced_only_when_asked_for(liver, labels, tmp_path):
    given = (liver, "--predictions", labels, "-o", tmp_path / "scores")
    evaluate(*given)
    assert "--force" in evaluate(*given, code=2).stderr
    evaluate(*given, "--force")


def test_a_class_that_the_model_was_never_taught_is_left_out_and_said(tiny, liver, tmp_path):
    """Predictions and evaluation of a model file with annotated classes: the spleen is the reference's alone."""
    site = json.loads(liver.read_text())
    liver.write_text(json.dumps({**site, "labels": {"1": "liver", "2": "spleen"}}))
    weights = {name: tensor.numpy() for name, tensor in canonical_state(build_network(tiny, seed=1)).items()}
    model = tmp_path / "m.safetensors"
    save_model(model, weights, model_info(tiny_plan(), 2, annotated={"liver", "kidney"}))
    content = as_json(liver, "--model", model, "--device", "cpu", "-o", tmp_path / "scores")
    assert list(content["classes"]) == ["liver"]
    assert any(note.startswith("spleen: annotated in 3") for note in content["notes"])
    with (tmp_path / "scores" / "predictions" / "volumes.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file).fieldnames) == ["name", "liver_ml", "kidney_ml"]
    label = tmp_path / "scores" / "predictions" / "a_labels.nii.gz"
    names = read_names(label)
    assert list(names.values()) == ["liver", "kidney"]
    assert set(np.unique(np.asanyarray(nibabel.load(label).dataobj))) <= {0, *names}


def test_a_model_segments_the_cases_first_and_goes_on_where_it_was(liver, tmp_path, monkeypatch):
    """The model itself is that of tests/inference; here every voxel above 100 is called liver."""
    from fedpartial.inference import predictor
    from fedpartial.networks.fusion import Fusion
    from fedpartial.presets import get_preset

    segmented = []

    class Threshold:
        preset, fusion, remark, names = get_preset("abdomen"), Fusion(), None, {1: "liver"}

        def __init__(self, *_, **__):
            pass

        def segment(self, volume, progress=None):
            segmented.append(volume)
            return (volume.array > 100).astype(np.uint8)

    model = tmp_path / "m.safetensors"
    model.write_bytes(b"weights")
    monkeypatch.setattr(predictor, "Predictor", Threshold)
    monkeypatch.setattr("fedpartial.cli.evaluate_model.Predictor", Threshold)
    given = (liver, "--model", model, "-o", tmp_path / "scores")
    content = as_json(*given)
    assert (len(segmented), content["model"], len(content["cases"])) == (3, "m.safetensors", 3)
    assert (tmp_path / "scores" / "predictions" / "a_labels.nii.gz").exists()
    (tmp_path / "scores" / "evaluation.json").unlink()
    assert as_json(*given)["done_before"] == 3
    assert len(segmented) == 3
