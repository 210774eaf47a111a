"""fedpartial predict: where label maps go, what a folder remembers, and a wrong image among good ones."""

from __future__ import annotations

import csv
import errno
import inspect
import json
from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
from tiny_hospital import write_nifti
from typer.testing import CliRunner

from fedpartial.cli.commands.predict import predict as command
from fedpartial.cli.main import app
from fedpartial.cli.predict import target_path
from fedpartial.data.label_names import read_facts, read_names
from fedpartial.inference.journal import JOURNAL, LOCK
from fedpartial.networks.fusion import Fusion, Rule
from fedpartial.presets import get_preset

SHAPE = (12, 10, 8)


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
    """Finds two voxels of liver, and remembers how it was made and how many images it has seen."""

    given: tuple = ()
    seen = 0

    def __init__(self, model, *, device, fusion, local_path):
        FakePredictor.given = (device, fusion, local_path and local_path.name)
        self.remark = None if local_path is None else "are they the right way round?"
        self.names = self.per_head_names = {1: "liver", 3: "spleen"}
        self.fusion, self.preset = fusion or Fusion(), get_preset("phantom")

    def segment(self, volume, progress):
        FakePredictor.seen += 1
        if error := {666: KeyboardInterrupt, 777: MemoryError}.get(int(volume.array.max())):
            raise error
        progress(1, 1)
        label = np.zeros(volume.array.shape, dtype=np.uint8)
        label[2, 3, 4:6] = 1
        return label if self.fusion.rule != "per-head" else np.stack([label == c for c in range(8)]).astype(np.uint8)


@pytest.fixture
def predict(monkeypatch, tmp_path):
    """Run the command on inputs by name; labels go to tmp_path/out."""
    monkeypatch.setattr("fedpartial.inference.predictor.Predictor", FakePredictor)
    monkeypatch.setattr("fedpartial.evaluation.prediction_picture.prediction_picture", lambda *_, **__: b"a picture")
    monkeypatch.setattr(FakePredictor, "seen", 0)
    (tmp_path / "m.safetensors").write_bytes(b"one model")

    def run(*names: str, options: tuple[str, ...] = (), out: str = "out"):
        images = [str(tmp_path / name) for name in names]
        return CliRunner().invoke(
            app, ["predict", str(tmp_path / "m.safetensors"), *images, "-o", str(tmp_path / out), *options]
        )

    return run


def scan(path: Path, value: int = 0) -> Path:
    return write_nifti(path, np.full(SHAPE, value - 1, dtype=np.int16), np.diag([2.0, 2.0, 5.0, 1.0]))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def test_a_wrong_image_is_named_and_the_others_are_done(predict, tmp_path):
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "c.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:40])
    done = predict("a.nii.gz", "broken.nii.gz", "nowhere.nii.gz", "c.nii.gz", options=("--device", "cpu"))
    assert done.exit_code == 2
    assert "broken.nii.gz" in done.stderr
    assert "nowhere.nii.gz: input: got no such file" in done.stderr
    assert "Traceback" not in done.output
    expected = ["a_labels.nii.gz", "c_labels.nii.gz", "labels.ctbl", "labels_itksnap.txt", "predictions.json"]
    assert names_in(tmp_path / "out") == [*expected, "volumes.csv"]
    assert FakePredictor.given == ("cpu", None, None)


def test_a_folder_with_label_maps_volumes_and_names(predict, tmp_path):
    scan(tmp_path / "scäns 1" / "pät 1.nii.gz"), scan(tmp_path / "scäns 1" / "b.nii")
    done = predict("scäns 1", options=("--json",))
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["scans"]
    assert [(one["name"], one["volumes_ml"]["liver"]) for one in found] == [("b", 0.04), ("pät 1", 0.04)]
    target = tmp_path / "out" / "pät 1_labels.nii.gz"
    assert found[1]["files"] == {"labels": [str(target)]}
    assert read_names(target) == {1: "liver", 3: "spleen"}
    assert read_facts(target)["preset"] == "phantom"
    with (tmp_path / "out" / "volumes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"name": "pät 1", "liver_ml": "0.04", "spleen_ml": "0.0"}


def test_what_is_done_is_not_done_again_until_the_image_changes(predict, tmp_path):
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz")
    assert predict("a.nii.gz", "b.nii.gz").exit_code == 0
    again = predict("a.nii.gz", "b.nii.gz")
    assert (again.exit_code, FakePredictor.seen) == (0, 2)
    assert "2 of 2 done before" in again.stdout
    (tmp_path / "out" / "b_labels.nii.gz").unlink()
    assert predict("a.nii.gz", "b.nii.gz").exit_code == 0
    assert FakePredictor.seen == 3
    scan(tmp_path / "a.nii.gz", value=-7)
    refused = predict("a.nii.gz", "b.nii.gz")
    assert refused.exit_code == 2
    assert "a: image: got 'a file that has changed'" in refused.stderr
    assert predict("a.nii.gz", "b.nii.gz", options=("--force",)).exit_code == 0
    assert FakePredictor.seen == 5


def test_another_patients_image_of_the_same_name_replaces_nothing(predict, tmp_path):
    scan(tmp_path / "patient Müller" / "ct.nii.gz"), scan(tmp_path / "patient b" / "ct.nii.gz")
    assert predict("patient Müller/ct.nii.gz").exit_code == 0
    before = (tmp_path / "out" / "ct_labels.nii.gz").read_bytes()
    refused = predict("patient b/ct.nii.gz")
    assert (refused.exit_code, FakePredictor.seen) == (2, 1)
    assert "ct: image: got 'another file of this name'" in refused.stderr
    assert "Give another folder, or --force" in refused.stderr
    assert (tmp_path / "out" / "ct_labels.nii.gz").read_bytes() == before
    assert "ller" not in (tmp_path / "out" / JOURNAL).read_text(encoding="utf-8"), "folders may name patients"
    assert predict("patient b/ct.nii.gz", options=("--force",)).exit_code == 0


def test_another_model_is_an_error_before_anything_is_done(predict, tmp_path):
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz")
    assert predict("a.nii.gz").exit_code == 0
    (tmp_path / "m.safetensors").write_bytes(b"another model")
    refused = predict("b.nii.gz", "a.nii.gz")
    assert (refused.exit_code, FakePredictor.seen) == (2, 1)
    assert "predictions.json: a: model: got" in refused.stderr
    assert "--force to segment again" in refused.stderr
    assert predict("b.nii.gz", "a.nii.gz", options=("--force",)).exit_code == 0
    assert FakePredictor.seen == 3


def test_an_interruption_keeps_what_is_done(predict, tmp_path):
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz", value=667), scan(tmp_path / "c.nii.gz")
    stopped = predict("a.nii.gz", "b.nii.gz", "c.nii.gz")
    assert stopped.exit_code == 130
    assert "1 of 3 done; the same command goes on" in stopped.stderr
    scan(tmp_path / "b.nii.gz")
    done = predict("a.nii.gz", "b.nii.gz", "c.nii.gz")
    assert "1 of 3 done before" in done.stdout
    assert names_in(tmp_path / "out")[:3] == ["a_labels.nii.gz", "b_labels.nii.gz", "c_labels.nii.gz"]


def test_a_volume_too_large_for_memory_does_not_stop_the_others(predict, tmp_path):
    scan(tmp_path / "a.nii.gz", value=778), scan(tmp_path / "b.nii.gz")
    done = predict("a.nii.gz", "b.nii.gz")
    assert (done.exit_code, FakePredictor.seen) == (2, 2)
    assert "a.nii.gz: size: got '12 x 10 x 8'; expected a volume that fits into memory" in done.stderr


def test_pictures_can_be_asked_for_later(predict, tmp_path):
    scan(tmp_path / "a.nii.gz")
    assert predict("a.nii.gz").exit_code == 0
    assert predict("a.nii.gz", options=("--pictures",)).exit_code == 0
    assert FakePredictor.seen == 1
    assert (tmp_path / "out" / "a.png").read_bytes() == b"a picture"
    assert predict("a.nii.gz", options=("--pictures", "--json")).stdout.count("a.png") == 1


def test_one_label_map_to_a_file_leaves_nothing_else(predict, tmp_path):
    scan(tmp_path / "a.nii.gz")
    assert predict("a.nii.gz", out="x/mine.nii").exit_code == 0
    assert predict("a.nii.gz", out="x/mine.nii").exit_code == 0, "our own label map may be replaced"
    assert names_in(tmp_path / "x") == ["mine.nii"]


def test_nothing_of_others_is_replaced(predict, tmp_path):
    image = scan(tmp_path / "a.nii.gz")
    other = scan(tmp_path / "other.nii.gz")
    before = image.read_bytes(), other.read_bytes()
    for out, words in (("a.nii.gz", "would replace the image"), ("other.nii.gz", "something else has written")):
        refused = predict("a.nii.gz", out=out)
        assert refused.exit_code == 2
        assert words in refused.stderr
    assert (image.read_bytes(), other.read_bytes()) == before
    assert predict("a.nii.gz", out="other.nii.gz", options=("--force",)).exit_code == 0
    assert read_names(other) is not None


def test_several_label_maps_do_not_fit_into_a_file(predict, tmp_path):
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz"), scan(tmp_path / "c.nii.gz")
    for names, out in ((("a.nii.gz", "b.nii.gz"), "new.nii.gz"), (("a.nii.gz", "gone.nii.gz"), "c.nii.gz")):
        refused = predict(*names, out=out)
        assert refused.exit_code == 2
        assert "Several inputs need a folder" in refused.stderr
    assert predict("a.nii.gz", "b.nii.gz", out="c.nii.gz/below").exit_code == 2
    assert FakePredictor.seen == 0


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_segmented(predict, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    scan(tmp_path / "a.nii.gz")
    monkeypatch.setattr("fedpartial.cli.predict.tempfile.TemporaryFile", refuse)
    refused = predict("a.nii.gz")
    assert (refused.exit_code, FakePredictor.seen) == (2, 0)
    assert "expected a folder in which you may write" in refused.stderr


def test_a_full_disk_is_one_line_that_names_the_label_map(predict, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    scan(tmp_path / "a.nii.gz")
    monkeypatch.setattr("nibabel.save", full)
    stopped = predict("a.nii.gz")
    assert stopped.exit_code == 1
    assert "no space left for a_labels.nii.gz in" in stopped.stderr
    assert not list((tmp_path / "out").glob("*a_labels*"))


def test_a_grid_that_cannot_be_one_is_named_and_the_others_are_done(predict, tmp_path):
    scan(tmp_path / "a.nii.gz")
    write_nifti(tmp_path / "b.nii.gz", np.zeros(SHAPE, dtype=np.int16), np.diag([1e20, 1.0, 1.0, 1.0]))
    done = predict("a.nii.gz", "b.nii.gz")
    assert (done.exit_code, FakePredictor.seen) == (2, 1)
    assert "b.nii.gz: affine: got voxels of 1e+20 x 1 x 1 mm" in done.stderr


def test_label_maps_among_the_images_are_remarked_and_not_segmented(predict, tmp_path):
    scan(tmp_path / "scans" / "a.nii.gz")
    assert "holds the images too" in predict("scans", out="scans").stderr
    assert "1 of 1 done before" in predict("scans", out="scans").stdout


def test_each_class_has_a_mask_of_its_own_name(predict, tmp_path):
    scan(tmp_path / "a.nii.gz")
    done = predict("a.nii.gz", options=("--fusion", "per-head", "--pictures"))
    assert done.exit_code == 0, done.stderr
    masks = [name for name in names_in(tmp_path / "out") if name.endswith(".nii.gz")]
    assert masks == ["a_liver_labels.nii.gz", "a_spleen_labels.nii.gz"]
    assert read_names(tmp_path / "out" / masks[1]) == {1: "spleen"}
    assert np.asanyarray(nibabel.load(tmp_path / "out" / masks[0]).dataobj).sum() == 2
    assert "1 spleen" in (tmp_path / "out" / "spleen_labels.ctbl").read_text(encoding="utf-8")


def test_values_that_are_no_hounsfield_units_are_remarked(predict, tmp_path):
    scan(tmp_path / "a.nii.gz", value=200)
    assert "is this CT in Hounsfield units?" in predict("a.nii.gz").stderr


@pytest.mark.parametrize(
    ("options", "fusion"),
    [
        ("--fusion per-head", Fusion(rule="per-head")),
        ("--fusion priority --priority spleen,liver", Fusion(rule="priority", priority=("spleen", "liver"))),
        ("--fusion priority", Fusion(rule="priority")),
    ],
)
def test_the_fusion_reaches_the_predictor(predict, tmp_path, options, fusion):
    scan(tmp_path / "a.nii.gz")
    done = predict("a.nii.gz", options=tuple(options.split()))
    assert done.exit_code == 0, done.stderr
    assert FakePredictor.given == ("auto", fusion, None)
    refused = predict("a.nii.gz")
    assert f"a: fusion: got {' '.join(options.split()[1::2])!r}; expected log-odds" in refused.stderr


def test_the_local_model_reaches_the_predictor_and_its_remark_the_user(predict, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "local.safetensors").write_bytes(b"a local model")
    done = predict("a.nii.gz", options=("--local", str(tmp_path / "local.safetensors")))
    assert done.exit_code == 0, done.stderr
    assert FakePredictor.given == ("auto", None, "local.safetensors")
    assert "are they the right way round?" in done.stderr
    assert "the right way round" not in predict("a.nii.gz", options=("--force",)).stderr


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
    offered = get_args(get_args(inspect.signature(command, eval_str=True).parameters["fusion"].annotation)[0])[0]
    assert get_args(offered) == get_args(Rule)


def test_a_foreign_model_file_is_one_clear_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"no model")
    scan(tmp_path / "ct.nii.gz")
    arguments = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "expected a model written by this project" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
