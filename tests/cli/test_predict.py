"""fedpartial predict: where label maps go, which fusion is asked for, and a wrong image among good ones."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from fedpartial.cli import main
from fedpartial.cli.main import app
from fedpartial.cli.predict import target_path
from fedpartial.errors import DataFaults
from fedpartial.networks.fusion import Rule


@pytest.mark.parametrize(
    ("image", "out", "several", "expected"),
    [
        ("a/ct.nii.gz", "labels.nii.gz", False, "labels.nii.gz"),
        ("a/ct.nii.gz", "labels", False, "labels/ct_labels.nii.gz"),
        ("a/ct.nii", "labels", True, "labels/ct_labels.nii.gz"),
        ("a/ct.nii.gz", "labels.nii.gz", True, "labels.nii.gz/ct_labels.nii.gz"),
    ],
)
def test_where_a_label_map_goes(image, out, several, expected):
    assert target_path(Path(image), Path(out), several=several) == Path(expected)


class FakePredictor:
    """Writes what it was given instead of a label map."""

    remark = None

    def __init__(self, model, *, device, fusion, local_path):
        self.given = f"{model.name} {device} {fusion and (fusion.rule, *fusion.priority)}"
        if local_path is not None:
            self.given += f" {local_path.name}"
            self.remark = "are they the right way round?"

    def predict(self, image, out):
        if image.name == "broken.nii.gz":
            raise DataFaults(["broken.nii.gz: damaged"])
        out.write_text(self.given)
        return [out]


@pytest.fixture
def predict(monkeypatch, tmp_path):
    """Run the command on images by name; labels go to tmp_path/out."""
    monkeypatch.setattr("fedpartial.inference.predictor.Predictor", FakePredictor)

    def run(*names: str, options: tuple[str, ...] = ()):
        images = [str(tmp_path / name) for name in names]
        return CliRunner().invoke(app, ["predict", "m.safetensors", *images, "-o", str(tmp_path / "out"), *options])

    return run


def test_a_wrong_image_is_named_and_the_others_are_done(predict, tmp_path):
    done = predict("a.nii.gz", "broken.nii.gz", "c.nii.gz", options=("--device", "cpu"))
    assert done.exit_code == 2
    assert "broken.nii.gz: damaged" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_labels.nii.gz", "c_labels.nii.gz"]
    assert (tmp_path / "out" / "a_labels.nii.gz").read_text() == "m.safetensors cpu None"


@pytest.mark.parametrize(
    ("options", "fusion"),
    [
        ("--fusion per-head", "('per-head',)"),
        ("--fusion priority --priority spleen,liver", "('priority', 'spleen', 'liver')"),
        ("--fusion priority", "('priority',)"),
    ],
)
def test_the_fusion_reaches_the_predictor(predict, tmp_path, options, fusion):
    done = predict("a.nii.gz", options=tuple(options.split()))
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "a_labels.nii.gz").read_text() == f"m.safetensors auto {fusion}"


def test_the_local_model_reaches_the_predictor_and_its_remark_the_user(predict, tmp_path):
    done = predict("a.nii.gz", options=("--local", "local.safetensors"))
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "a_labels.nii.gz").read_text() == "m.safetensors auto None local.safetensors"
    assert "are they the right way round?" in done.stderr
    assert "the right way round" not in predict("a.nii.gz").stderr


def test_the_help_says_who_wins_a_voxel():
    shown = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "the local model wins, but for a lesion of MODEL inside its organ" in " ".join(
        shown.replace("│", " ").split()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--priority liver", "Choose the rule 'priority'"),
        ("--fusion uncertainty --priority liver", "none with the rule uncertainty"),
        ("--fusion vote", "'vote' is not one of"),
    ],
)
def test_a_wrong_fusion_is_one_error_for_all_images(predict, tmp_path, options, words):
    done = predict("a.nii.gz", "b.nii.gz", options=tuple(options.split()))
    assert done.exit_code == 2
    assert " ".join(done.stderr.replace("│", " ").split()).count(words) == 1
    assert not (tmp_path / "out").exists()


def test_the_command_offers_every_rule():
    offered = get_args(get_args(inspect.signature(main.predict, eval_str=True).parameters["fusion"].annotation)[0])[0]
    assert get_args(offered) == get_args(Rule)


def test_a_foreign_model_file_is_one_clear_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"no model")
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    arguments = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "expected a model written by this project" in done.stderr
    assert "Traceback" not in done.stderr
