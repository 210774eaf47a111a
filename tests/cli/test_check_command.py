"""``fedpartial check`` as it is typed: tables, lists, sheets, exit codes, and nothing written among the data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_hospitals import write_hospitals
from tiny_hospital import write_nifti
from typer.testing import CliRunner

from fedpartial.cli.main import app

REAL = Path(__file__).parents[3] / "shared" / "real"


def check(*arguments: object, code: int = 0, drawn: int = 0, workers: int = 1):
    """Runs the command in this process; returns its result, of which the exit code is looked at."""
    options = ["--cases", str(drawn), "--workers", str(workers)]
    result = CliRunner().invoke(app, ["check", *map(str, arguments), *options], terminal_width=200)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def as_json(*arguments: object, code: int = 0, **how: int) -> dict:
    content = json.loads(check(*arguments, "--json", code=code, **how).stdout)
    assert content["exit_code"] == code
    return content


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path):
    return write_hospitals(tmp_path)


@pytest.fixture
def liver(folder):
    return folder / "liver.json"


def test_a_faultless_site_is_described_and_drawn_beside_its_file(liver, tmp_path):
    before = files_of(tmp_path / "data")
    result = check(liver, drawn=1)
    for text in ("training 2, validation 2, testing 1", "5 of 5", "liver tumor", "RAS (5)", "no faults"):
        assert text in result.stdout
    assert (liver.parent / "liver_check.png").read_bytes().startswith(b"\x89PNG")
    assert files_of(tmp_path / "data") == before


def test_json_has_the_numbers(liver):
    content = as_json(liver)
    (site,) = content["sites"]
    assert site["cases"] == {"training": 2, "validation": 2, "testing": 1}
    organ, lesion = site["classes"]
    assert (organ["name"], organ["present"], lesion["present"]) == ("liver", 5, 5)
    assert organ["volume_ml"]["median"] == pytest.approx((5 * 4 * 5 - 8) * 8 / 1000)
    assert [axis["median"] for axis in site["spacing_mm"]] == [2, 2, 2]
    assert site["faults"] == content["errors"] == []
    assert content["sheets"] == {}
    assert {warning["kind"] for warning in site["warnings"]} >= {"smaller than a patch"}


def test_every_fault_of_every_file_is_in_the_list(liver, tmp_path):
    data = tmp_path / "data" / "liver"
    (data / "training0.nii.gz").unlink()
    write_nifti(data / "validation1_label.nii.gz", np.full((16, 14, 12), 9, dtype=np.uint8))
    result = check(liver, "--csv", tmp_path / "out" / "faults.csv", code=2)
    assert "2 faults in 2 files" in result.stderr
    assert "missing file" in result.stdout
    with (tmp_path / "out" / "faults.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "fault"]
    assert [(Path(row["file"]).name, row["kind"]) for row in rows] == [
        ("training0.nii.gz", "missing file"),
        ("validation1_label.nii.gz", "unnamed label values"),
    ]
    assert [fault["field"] for fault in as_json(liver, code=2)["sites"][0]["faults"]] == ["training[0].image", "values"]


def test_one_scan_at_two_sites_is_a_fault_that_names_both(folder, tmp_path):
    liver, spleen = (tmp_path / "data" / name for name in ("liver", "spleen"))
    scan = nibabel.load(liver / "training1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata(), scan.affine), spleen / "testing0.nii.gz")
    first, second = as_json(folder, code=2)["sites"]
    assert [first["faults"], [fault["kind"] for fault in second["faults"]]] == [[], ["the same scan twice"]]
    message = second["faults"][0]["message"]
    assert "testing0.nii.gz" in message
    assert str(liver / "training1.nii.gz") in message.replace("my sites/../", "")


def test_one_scan_in_two_splits_is_a_fault(liver, tmp_path):
    data = tmp_path / "data" / "liver"
    for end in (".nii.gz", "_label.nii.gz"):
        shutil.copy(data / f"training0{end}", data / f"validation0{end}")
    (site,) = as_json(liver, code=2)["sites"]
    assert [fault["field"] for fault in site["faults"]] == ["validation[0].image"]


@pytest.mark.slow
def test_several_processes_find_the_same(folder):
    assert as_json(folder, workers=2) == as_json(folder)


def test_a_preset_that_knows_the_names_is_named(liver):
    content = json.loads(liver.read_text())
    liver.write_text(json.dumps({**content, "labels": {"1": "kidney_left", "2": "liver"}}))
    assert "--preset psmos" in check(liver, code=2).stderr
    assert "--preset" in check(liver, "--preset", "abdomne", code=2).stderr


def test_one_wrong_site_file_does_not_hide_the_others(folder):
    (folder / "kidney.json").write_text('{"labels": {"1": "kidney"}, "data_root": "nowhere"}')
    (folder / "datalist.json").write_text('{"training": [], "labels": {}}')
    content = as_json(folder, code=2)
    assert [site["site"] for site in content["sites"]] == ["liver", "spleen"]
    assert [error["field"] for error in content["errors"]] == ["data_root"]


def test_the_servers_public_images_are_looked_at_too(folder, tmp_path):
    images = [{"image": f"testing0{end}.nii.gz"} for end in ("", "_no_such")]
    (folder / "public_list.json").write_text(json.dumps({"training": images}))
    content = {"data_root": "../data/liver", "datalist": str(folder / "public_list.json")}
    (folder / "public.json").write_text(json.dumps(content))
    sites = {site["site"]: site for site in as_json(folder, code=2)["sites"]}
    assert [fault["kind"] for fault in sites["public"]["faults"]] == ["missing file"]
    assert "the same scan twice" in {warning["kind"] for warning in sites["public"]["warnings"]}
    assert sites["liver"]["faults"] == []


def test_sheets_never_lie_among_the_data_unasked(tmp_path, liver):
    data = tmp_path / "data" / "liver"
    site = json.loads(liver.read_text())
    (data / "liver.json").write_text(json.dumps({**site, "data_root": "."}))
    result = check(data / "liver.json", drawn=1)
    assert "--sheet" in result.stderr
    assert not list(data.rglob("*.png"))
    sheet = tmp_path / "Bilder für alle" / "sheet.png"
    check(data / "liver.json", "--sheet", sheet, drawn=2)
    assert sheet.is_file()
    assert "--force" in check(data / "liver.json", "--sheet", sheet, code=2, drawn=1).stderr
    check(data / "liver.json", "--sheet", sheet, "--force", drawn=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere/liver.json"], "no such file"),
        (["liver"], "no such file"),
        (["."], "no site file"),
        (["phantom:livr"], "livr"),
        (["{folder}/../data/liver/datalist.json"], "another JSON file"),
        (["{liver}", "--csv", "faults.txt"], ".csv"),
        (["{liver}", "--sheet", "sheet.jpg"], ".png"),
        (["{folder}", "--sheet", "sheet.png"], "folder"),
    ],
)
def test_what_is_typed_wrong_ends_in_one_line(arguments, told, folder, liver, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    result = check(*(text.format(liver=liver, folder=folder) for text in arguments), code=2, drawn=1)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert not list(empty.iterdir())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the two real CTs are not here ({REAL}); they are not published")
def test_two_real_scans_have_no_fault(tmp_path):
    for name in ("totalseg_example", "totalseg_dicom"):
        raw = json.loads((REAL / name / "labels.json").read_text(encoding="utf-8"))["label_map"]
        known = ("liver", "spleen", "pancreas")
        labels = {str(value): organ if organ in known else "background" for organ, value in raw.items() if value}
        datalist = tmp_path / "lists" / f"{name}.json"
        datalist.parent.mkdir(exist_ok=True)
        datalist.write_text('{"training": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}')
        site = {"labels": labels, "data_root": str(REAL / name), "datalist": str(datalist)}
        (tmp_path / f"{name}.json").write_text(json.dumps(site))
    content = as_json(tmp_path, drawn=1)
    assert len(content["sites"]) == 2
    for site in content["sites"]:
        assert site["classes"][0]["volume_ml"]["median"] > 100
        assert site["intensities"][0]["smallest"] <= -1000
        assert Path(content["sheets"][site["site"]]).is_file()
