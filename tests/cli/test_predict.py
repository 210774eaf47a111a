"""fedpartial predict: where label maps go, and what happens to a wrong image among good ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpartial.cli.main import app
from fedpartial.cli.predict import target_path
from fedpartial.errors import ConfigError, DataFaults


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


def test_a_label_map_never_replaces_its_image():
    with pytest.raises(ConfigError, match="replace the image"):
        target_path(Path("ct.nii.gz"), Path("ct.nii.gz"), several=False)


def test_a_wrong_image_is_named_and_the_others_are_done(monkeypatch, tmp_path):
    def predict_file(model, image, out, *, device):
        if image.name == "broken.nii.gz":
            raise DataFaults(["broken.nii.gz: damaged"])
        out.write_text(f"{model.name} {device}")

    monkeypatch.setattr("fedpartial.training.inference.predict_file", predict_file)
    images = [str(tmp_path / name) for name in ("a.nii.gz", "broken.nii.gz", "c.nii.gz")]
    arguments = ["predict", "m.safetensors", *images, "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "broken.nii.gz: damaged" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_labels.nii.gz", "c_labels.nii.gz"]
    assert (tmp_path / "out" / "a_labels.nii.gz").read_text() == "m.safetensors cpu"


def test_a_foreign_model_file_is_one_clear_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"no model")
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    arguments = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "expected a model written by this project" in done.stderr
    assert "Traceback" not in done.stderr
