"""docs/your-own-data.md, command by command: a folder in MSD's layout, two files, a check, a model, label maps, scores.

Training is shortened to a few steps: what is asserted is what each command writes, and that the next one takes it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedpartial.data.label_names import read_names
from fedpartial.sites import HOME_VARIABLE
from fedpartial.training.model_file import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOOL = Path(__file__).parents[2] / "tools" / "phantom_as_msd.py"
CLASSES = {1: "liver", 2: "liver_tumor"}
MODEL = "runs/liver/best_global_model.safetensors"


class Guide:
    """A folder in which commands are typed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def type(self, *words: str) -> str:
        command = [sys.executable, *(words if words[0].endswith(".py") else ("-m", "fedpartial", *words))]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, HOME_VARIABLE: str(self.folder / "home")},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> Guide:
    """The whole guide, once; every command ended with exit code 0."""
    guide = Guide(tmp_path_factory.mktemp("own data"))
    guide.type(str(TOOL), "liver", "downloads/Task03_Liver")
    guide.type("datalist", "auto", "downloads/Task03_Liver", "--site", "liver", "-o", "my_sites")
    guide.type("check", "my_sites/liver.json", "--preset", "phantom_coarse")
    length = ("--rounds", "2", "--local-steps", "4", "--preset", "phantom_coarse")
    guide.type("run", "fedavg", *length, "--site-config", "my_sites", "--sites", "liver", "-o", "runs/liver")
    guide.type("predict", MODEL, "downloads/Task03_Liver/imagesTs", "-o", "labels", "--pictures")
    guide.type("evaluate", "my_sites/liver.json", "--model", MODEL, "-o", "scores")
    return guide


def test_the_download_is_as_it_was(guide):
    files = {path.relative_to(guide.folder / "downloads").parts[1] for path in guide.folder.glob("downloads/*/**/*")}
    assert files == {"dataset.json", "imagesTr", "imagesTs", "labelsTr"}
    assert len(list(guide.folder.glob("downloads/**/*.nii.gz"))) == 42


def test_the_report_is_about_these_cases(guide):
    report = json.loads((guide.folder / "runs/liver/report.json").read_text())
    assert list(report["sites"]) == ["liver"]
    assert report["sites"]["liver"]["liver"]["missed"] + report["sites"]["liver"]["liver"]["dice"]["n"] >= 4
    assert not report["external"], "the phantom's external set belongs to the phantom"


def test_the_model_says_what_it_was_taught(guide):
    assert load_model(guide.folder / MODEL)[1].annotated == tuple(CLASSES.values())


def test_label_maps_have_the_grid_of_their_images_and_taught_classes_only(guide):
    images = sorted(guide.folder.glob("downloads/Task03_Liver/imagesTs/*.nii.gz"))
    assert len(images) == 2
    for path in images:
        image = nibabel.load(path)
        target = guide.folder / "labels" / path.name.replace(".nii.gz", "_labels.nii.gz")
        label = nibabel.load(target)
        assert label.shape == image.shape
        assert np.array_equal(label.affine, image.affine)
        assert [int(label.header[code]) for code in ("sform_code", "qform_code")] == [
            int(image.header[code]) for code in ("sform_code", "qform_code")
        ]
        assert set(np.unique(label.dataobj)) <= {0, *CLASSES}
        assert read_names(target) == CLASSES
        assert target.with_name(path.name.replace(".nii.gz", ".png")).stat().st_size > 10_000


def test_volumes_are_those_of_the_label_maps(guide):
    with (guide.folder / "labels" / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        label = nibabel.load(guide.folder / "labels" / f"{row['name']}_labels.nii.gz")
        ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
        for value, name in CLASSES.items():
            assert float(row[f"{name}_ml"]) == pytest.approx((np.asarray(label.dataobj) == value).sum() * ml, abs=1e-2)


def test_every_test_case_is_scored(guide):
    content = json.loads((guide.folder / "scores" / "evaluation.json").read_text())
    assert len(content["cases"]) == 4
    assert {"liver", "liver_tumor"} <= set(content["classes"])
    assert (guide.folder / "scores" / "evaluation.html").stat().st_size > 10_000
