"""Two real CTs at two hospitals, from site files to label maps. Two patients prove no accuracy: no score is looked at.

The images are not part of the project; their README says where they come from. Their label files are predictions of
another model. One hospital annotates liver and kidneys, the other the spleen; all else is "background" by raw value.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from simulation import simulate, small_job

from fedpartial.data.preprocess import load_image
from fedpartial.evaluation.record import validate_report
from fedpartial.inference.predictor import Predictor
from fedpartial.presets import get_preset
from fedpartial.training.model_file import load_model

REAL = Path(__file__).parents[3] / "shared" / "real"
CASES = {"north": "totalseg_example", "south": "totalseg_dicom"}
ANNOTATED = {
    "north": {"liver": "liver", "kidney_left": "kidney", "kidney_right": "kidney"},
    "south": {"spleen": "spleen"},
}
"""Hospital -> name in the label file -> class of the preset."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not REAL.is_dir(), reason=f"the two real CTs are not here ({REAL}); they are not published"),
]


def write_hospital(name: str, local: Path, cache: Path) -> None:
    """The site file of a hospital and the datalist of its one case, which lies where it always did."""
    label_map = json.loads((REAL / CASES[name] / "labels.json").read_text(encoding="utf-8"))["label_map"]
    labels = {str(raw): ANNOTATED[name].get(label, "background") for label, raw in label_map.items() if raw}
    datalist = local / f"{name}_datalist.json"
    datalist.write_text(json.dumps({"training": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}))
    site = {
        "labels": labels,
        "data_root": str(REAL / CASES[name]),
        "datalist": str(datalist),
        "device": "cpu",
        "cache_dir": str(cache),
    }
    (local / "sites" / f"{name}.json").write_text(json.dumps(site))


@pytest.fixture(scope="module")
def run(tmp_path_factory, own_cache):
    """Two rounds of ConDistFL between the hospitals; the workspace's local/ folder is there before the run."""
    folder = tmp_path_factory.mktemp("real")
    local = folder / "workspace" / "local"
    (local / "sites").mkdir(parents=True)
    for name in CASES:
        write_hospital(name, local, own_cache)
    job = small_job("condistfl", folder, tuple(CASES), num_rounds=2, local_steps=2)
    return simulate(job, folder / "workspace", threads=2)


def test_the_hospitals_trained_on_their_own_files(run):
    report = run.report
    validate_report(report)
    assert len(report["rounds"]) == 2
    assert all(set(r["sites"]) == set(CASES) for r in report["rounds"])
    assert all(np.isfinite(s["loss"]) for r in report["rounds"] for s in r["sites"].values())
    weights, info = load_model(run.app / "global_model.safetensors")
    assert info.round_number == 2
    assert all(np.isfinite(value).all() for value in weights.values())


def test_nothing_in_the_servers_folder_names_a_hospitals_file(run):
    checked = 0
    for path in run.app.rglob("*"):
        if path.is_file():
            assert str(REAL).encode() not in path.read_bytes(), path.name
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("name", CASES)
def test_the_global_model_gives_labels_on_the_grid_of_the_image(run, name):
    image = REAL / CASES[name] / "image.nii.gz"
    label = Predictor(run.app / "global_model.safetensors", device="cpu").segment(load_image(image))
    assert label.shape == nibabel.load(image).shape
    assert label.dtype == np.uint8
    values = np.unique(label)
    assert values.max() < get_preset("phantom").label_space.num_channels
