"""``fedpartial datalist``: what a user types, sees, and finds in the folder afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fedpartial.cli.main import app
from fedpartial.cli.site_check import open_site_folder
from fedpartial.data.datalist import read_datalist
from fedpartial.data.label_names import embed_names
from fedpartial.distillation.public_volumes import listed_images
from fedpartial.evaluation.scoring_plan import choose_cases
from fedpartial.sites import read_public, read_site, read_site_file

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from layouts import write_layout


@pytest.fixture
def call() -> Callable[..., Result]:
    def invoke(*arguments: object, columns: int = 300) -> Result:
        environment = {"COLUMNS": str(columns), "TERM": "dumb"}
        result = CliRunner().invoke(app, ["datalist", *map(str, arguments)], env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def liver(tmp_path) -> Path:
    return write_layout("msd-liver", tmp_path / "Däta sets" / "Task03 Liver", cases=5)


def test_a_site_is_written_that_a_run_can_read(call, liver, tmp_path):
    out = tmp_path / "my sites"
    result = call("auto", liver, "--site", "liver", "-o", out)
    assert result.exit_code == 0
    for line in (
        f"MSD Task03 Liver: {liver} (recognised as msd-liver)",
        "5 labelled cases; the complete data set has 131",
        "left out: 2 images without labels",
        "split 60/20/20, seed 0: 3 training, 1 validation, 1 testing",
        "value 2: liver_tumor",
        f"next: fedpartial check '{out / 'liver.json'}'",
    ):
        assert line in result.stdout
    site = read_site("liver", open_site_folder(out, _new(tmp_path)).config_dir)
    assert site.labels == {1: "liver", 2: "liver_tumor"}
    cases = read_datalist(site)
    assert [len(cases[split]) for split in cases] == [3, 1, 1]
    assert all(case.image.is_file() and case.label.is_file() for split in cases for case in cases[split])
    assert "ä" in (out / "liver.json").read_text(encoding="utf-8")


def _new(folder: Path) -> Path:
    (folder / "temporary").mkdir()
    return folder / "temporary"


def test_the_same_call_gives_the_same_files_and_does_not_replace_unasked(call, liver, tmp_path):
    arguments = ("msd-liver", liver, "--site", "liver", "-o", tmp_path / "out")
    call(*arguments)
    first = [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.json"))]
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert call(*arguments, "--force").exit_code == 0
    assert [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.json"))] == first
    assert call(*arguments, "--force", "--seed", "1").exit_code == 0
    assert [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.json"))] != first


def test_json_says_what_the_text_says(call, tmp_path):
    folder = write_layout("amos22", tmp_path / "amos22", cases=6)
    result = call("auto", folder, "--site", "external", "-o", tmp_path / "out", "--json")
    content = json.loads(result.stdout)
    assert content["exit_code"] == 0
    assert content["layout"] == "amos22"
    assert content["cases"] == {"training": 0, "validation": 0, "testing": 6}
    assert content["left_out"] == {"MRI (ids above 500)": 2, "images without labels": 1}
    assert content["labels"]["6"] == "liver"
    assert Path(content["site_file"]).is_file()


def test_a_published_data_set_has_its_usual_site(call, liver, tmp_path):
    result = call("auto", liver, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "site liver, the usual one for it; --site NAME gives another" in result.stdout
    assert (tmp_path / "out" / "liver.json").is_file()


def test_a_site_of_test_cases_alone_is_for_evaluate(call, tmp_path):
    """A run refuses it (test_run_site_check.py); evaluate and check take it."""
    folder = write_layout("amos22", tmp_path / "amos22", cases=3)
    result = call("auto", folder, "-o", tmp_path / "out", "--split", "all-testing")
    assert result.exit_code == 0
    assert "'fedpartial evaluate' can score models on this site" in result.stdout
    cases, _ = choose_cases([read_site_file(tmp_path / "out" / "amos.json")], ("testing",))
    assert len(cases) == 3
    assert "fedpartial evaluate" not in call("auto", folder, "--site", "external", "-o", tmp_path / "out").stdout


def test_label_maps_that_predict_has_written_are_no_cases(call, liver, tmp_path):
    """Neither beside the images nor among the labels; a file that is only named so stays, for check to look at."""
    image = nibabel.load(next((liver / "imagesTr").glob("liver*.nii.gz")))
    own = nibabel.Nifti1Image(np.zeros(image.shape, dtype=np.uint8), image.affine)
    embed_names(own, {1: "liver"})
    for name in ("imagesTr/liver_0_labels", "labelsTr/liver_0_labels", "out/liver_0_labels"):
        (liver / name).parent.mkdir(exist_ok=True)
        nibabel.save(own, liver / f"{name}.nii.gz")
    (liver / "out" / "broken_labels.nii.gz").write_bytes(b"no NIfTI")
    for layout, labels in (("msd-liver", ()), ("folders", ("--labels", "1=liver"))):
        content = json.loads(call(layout, liver, "--site", "a", "-o", tmp_path / layout, *labels, "--json").stdout)
        assert sum(content["cases"].values()) == 5
        assert content["left_out"]["label maps written by 'fedpartial predict'"] == 3


def test_the_patients_are_counted_where_a_pattern_tells_them_apart(call, liver, tmp_path):
    pattern = ("--patient-pattern", "^liver", "--split", "all-testing")
    assert "1 patient, each in one split" in call("msd-liver", liver, "-o", tmp_path / "a", *pattern).stdout
    assert "each in one split" not in call("msd-liver", liver, "-o", tmp_path / "b").stdout


def test_structures_without_a_class_stand_in_one_line(call, tmp_path):
    folder = write_layout("btcv", tmp_path / "btcv", cases=5)
    result = call("btcv", folder, "--site", "full", "-o", tmp_path / "out")
    assert "value 2: kidney (kidney_right)" in result.stdout
    assert "background, no class of preset abdomen: 4 gallbladder, 5 esophagus" in result.stdout


def test_the_split_of_a_paper_brings_its_classes(call, tmp_path):
    folder = tmp_path / "BTCV"
    for number in range(1, 31):
        for name in (f"imagesTr/img{number:04d}.nii.gz", f"labelsTr/label{number:04d}.nii.gz"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    result = call("auto", folder, "--site", "full", "-o", tmp_path / "out", "--split", "psmos")
    assert "split psmos, seed 0: 24 training, 0 validation, 6 testing" in result.stdout
    assert "value 2: kidney_right" in result.stdout
    assert result.stdout.strip().endswith("--preset psmos")


def test_public_images_have_no_labels(call, tmp_path):
    folder, out = write_layout("word", tmp_path / "word", cases=4), tmp_path / "out"
    assert call("word", folder, "--site", "public", "-o", out).exit_code == 0
    config_dir = open_site_folder(out, _new(tmp_path)).config_dir
    images = listed_images(read_public(config_dir, ("liver",), phantom=False))
    assert len(images) == 4
    assert all(image.is_file() for image in images)
    refused = call("word", folder, "--site", "public", "-o", tmp_path / "b", "--split", "60/20/20")
    assert (refused.exit_code, (tmp_path / "b").exists()) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "LAYOUT"),
        (("msd-liver",), "FOLDER"),
        (("msd-liver", "{data}"), "--out"),
        (("msd", "{data}", "-o", "{out}"), "--site"),
        (("msd-liver", "{data}", "--site", "a/b", "-o", "{out}"), "letters, digits"),
        (("msd-liver", "{data}", "--site", "external_organs", "-o", "{out}"), "letters, digits"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--preset", "abdomn"), "one of phantom"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{data}/out"), "in that of the data set"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{data}/dataset.json"), "in that of the data set"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--split", "half"), "60/20/20"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--split", "condistfl"), "5 labelled cases"),
        (("msd-liver", "{data}", "--site", "external", "-o", "{out}", "--split", "60/20/20"), "nobody trains"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--labels", "1"), "VALUE=CLASS"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--labels", "1=livre"), "got 'livre'"),
        (("msd-liver", "{data}", "--site", "a", "-o", "{out}", "--labels", "0=liver"), "labels.0"),
        (("folders", "{data}", "--site", "a", "-o", "{out}"), "1=liver,2=liver_tumor"),
        (("kits19", "{data}", "--site", "a", "-o", "{out}"), "looks like msd-liver"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(call, liver, tmp_path, arguments, message):
    given = [part.format(data=liver, out=tmp_path / "out") for part in arguments]
    result = call(*given) if given else call("--preset", "abdomen")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not (liver / "out").exists()


def test_a_folder_whose_sites_would_hide_the_file_is_refused(call, liver, tmp_path):
    (tmp_path / "local" / "sites").mkdir(parents=True)
    assert call("auto", liver, "--site", "liver", "-o", tmp_path / "local").exit_code == 2
    assert call("auto", liver, "--site", "liver", "-o", tmp_path / "local" / "sites").exit_code == 0


@pytest.mark.parametrize("columns", [80, 160])
def test_the_list_names_every_layout_with_page_and_licence(call, columns):
    result = call("--list", columns=columns)
    assert result.exit_code == 0
    for text in ("msd-liver", "amos22", "https://github.com/neheller/kits19", "CC BY-NC-SA 4.0", "210 labelled CT"):
        assert text in result.stdout
    layouts = json.loads(call("--list", "--json").stdout)["layouts"]
    assert {"btcv", "word", "nnunet", "folders"} <= {layout["name"] for layout in layouts}
