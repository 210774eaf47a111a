"""Which external cases a comparison shows, and that every method's own prediction of them is shown."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from small_hospitals import SITES

from fedpartial.cli import compare_pictures
from fedpartial.cli.compare_check import check_runs
from fedpartial.cli.compare_pictures import overlay_pictures
from fedpartial.cli.compare_plan import ComparePlan, PlannedMethod
from fedpartial.cli.prepare import Options

DICE = {1: 0.9, 2: 0.1, 3: 0.5}
METHODS = ("first", "union")


@pytest.fixture
def external(hospitals):
    """The site files with an external set of three cases, those of the hospital 'liver'."""
    given = json.loads((hospitals / "liver.json").read_text())
    (hospitals / "external.json").write_text(json.dumps({**given, "datalist": "external.json"}))
    data = hospitals.parent / "data/liver"
    cases = json.loads((data / "datalist.json").read_text())
    chosen = [*cases["training"], *cases["validation"]][: len(DICE)]
    (data / "external.json").write_text(json.dumps({"training": [], "validation": [], "testing": chosen}))
    return hospitals


@pytest.fixture
def runs(tmp_path, job, external, report_text):
    """Finished runs of a method and of one without lesions, with two seeds and predictions of three cases."""
    union = shutil.copytree(job, tmp_path / "jobs/union")
    config = union / "app/config/config_fed_server.json"
    content = json.loads(config.read_text())
    content["components"][0]["args"]["merge_lesions"] = True
    config.write_text(json.dumps(content))
    methods = tuple(PlannedMethod(name=name, job=str(job.parent / name)) for name in METHODS)
    methods = (replace(methods[0], job=str(job)), methods[1])
    plan = ComparePlan(title="T", seeds=(4, 5), preset=None, methods=methods)
    options = Options(job="", sites=SITES, site_config=external)
    found = check_runs(plan, options, tmp_path / "out", tmp_path)
    for run in found:
        run.end(with_external(json.loads(report_text)), (), 1.0)
        write_predictions(run)
    return found


def with_external(report: dict) -> dict:
    """The report with scores of three external cases."""
    cases = [copy.deepcopy(report["cases"]["liver"][0]) | {"case": number} for number in DICE]
    for case in cases:
        case["dice"]["liver"] = DICE[case["case"]]
    return {**report, "cases": {**report["cases"], "external": cases}}


def write_predictions(run) -> None:
    """A map full of the case's number, of one voxel, so that it can be told which one was shown."""
    folder = run.checked.out / "predictions"
    folder.mkdir(parents=True)
    for number in DICE:
        nib.save(
            nib.Nifti1Image(np.full((1, 1, 1), number, np.uint8), np.eye(4)), folder / f"external_0{number}.nii.gz"
        )


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn; pictures themselves are looked at in tests/evaluation."""
    calls = []

    def side_by_side(image, reference, predictions, **options):
        calls.append({"image": image, "reference": reference, "predictions": predictions, **options})
        return b"png"

    monkeypatch.setattr(compare_pictures, "side_by_side", side_by_side)
    return calls


def test_the_median_and_the_worst_case_of_the_first_run_are_shown_for_every_method(runs, drawn):
    found = overlay_pictures(runs)
    assert found == [
        ("External case 3, the median one of first, seed 4", b"png"),
        ("External case 2, the worst one of first, seed 4", b"png"),
    ]
    for call, number in zip(drawn, (3, 2), strict=True):
        assert list(call["predictions"]) == list(METHODS)
        assert all(array.item() == number for array in call["predictions"].values())
        assert call["image"].shape == call["reference"].shape
        assert set(np.unique(call["reference"])) > {0, call["space"].index("liver")}


def test_every_method_brings_its_own_classes(runs, drawn):
    overlay_pictures(runs)
    assert "liver_tumor" in drawn[0]["space"].classes
    assert "liver_tumor" in drawn[0]["spaces"]["first"].classes
    assert "liver_tumor" not in drawn[0]["spaces"]["union"].classes


def test_a_case_that_is_both_is_shown_once(runs, drawn):
    del runs[0].report["cases"]["external"][1:]
    assert [title for title, _ in overlay_pictures(runs)] == [
        "External case 1, the median and worst one of first, seed 4"
    ]


def test_a_case_without_a_prediction_of_every_method_is_left_out(runs, drawn):
    (runs[1].checked.out / "predictions/external_02.nii.gz").unlink()
    assert [title for title, _ in overlay_pictures(runs)] == ["External case 3, the median one of first, seed 4"]
    shutil.rmtree(runs[0].checked.out / "predictions")
    assert overlay_pictures(runs) == []


def test_while_a_method_is_not_finished_there_are_no_pictures(runs, drawn):
    runs[1].report = None
    assert overlay_pictures(runs) == []
    runs[1].report, runs[3].report = runs[0].report, None
    assert len(overlay_pictures(runs)) == 2, "the second seed is not shown"


def test_without_an_external_set_there_are_no_pictures(runs, drawn):
    del runs[0].report["cases"]["external"]
    assert overlay_pictures(runs) == []
    assert drawn == []
