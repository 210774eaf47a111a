"""``fedpartial compare`` with jobs of the ConDistFL table, and its numbers made again from the label maps.

One job of every kind: nothing aggregated, plain mean, teacher and server optimiser, merged lesions, pooled data.
The budget is a few steps: what is tested is the way of the numbers, not how good they are.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedpartial.phantom import PHANTOM_SITES, VERSION
from fedpartial.presets import ABDOMEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

FEDPARTIAL = Path(sys.executable).with_name("fedpartial")
REPO = Path(__file__).parents[2]
JOBS = (
    "standalone",
    "fedavg",
    "condistfl",
    "condistfl_union",
    "central",
)
BUDGET = ("--preset", "phantom_coarse", "--rounds", "2", "--local-steps", "8", "--seeds", "0")
OWNERS = {
    name: site for site in ("kidney", "liver", "pancreas", "spleen") for name in PHANTOM_SITES[site].labels.values()
}
RAW = {raw: name for raw, name in PHANTOM_SITES["external"].labels.items()}


def compare(out: Path, *jobs: str) -> subprocess.CompletedProcess:
    command = [str(FEDPARTIAL), "compare", *jobs, *BUDGET, "--time-limit", "5", "-o", str(out)]
    environment = {**os.environ, "FEDPARTIAL_DEVICE": "cpu"}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=2300)


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    done = compare(out, *JOBS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def rows(out: Path, which: str) -> dict[tuple[str, str], tuple[float, int]]:
    """(method, class) -> (mean Dice, number of cases) of one set in comparison.csv."""
    with (out / "comparison.csv").open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["set"] == which and row["metric"] == "dice"]
    return {(r["method"], r["class"]): (float(r["mean"]), int(r["n"])) for r in found if r["mean"] and r["n"]}


def references(cache: Path) -> list[np.ndarray]:
    folder = cache / "phantom" / f"external-seed0-v{VERSION}" / "labels"
    return [np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))]


def predicted(run: Path, number: int, name: str) -> np.ndarray:
    """Channels that a run has predicted; standalone runs have a label map of the model that answers for a class."""
    own = run / "predictions" / f"local_{OWNERS[name]}"
    return np.asarray(nibabel.load((own if own.is_dir() else own.parent) / f"external_{number:02d}.nii.gz").dataobj)


def dice_by_hand(cases: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int] | None:
    """Mean over the cases whose reference has the class; nothing predicted there counts 0."""
    values = [2 * (p & r).sum() / (p.sum() + r.sum()) for p, r in cases if r.any()]
    return (float(np.mean(values)), len(values)) if values else None


def organ_of(name: str) -> str:
    return name.removesuffix("_tumor")


@pytest.mark.parametrize("which", ["external", "external_organs"])
def test_the_dice_of_the_external_tables_follows_from_the_label_maps(compared, own_cache, which):
    found, truth, checked = rows(compared, which), references(own_cache), 0
    assert len(truth) == 6
    for job in JOBS:
        union = job == "condistfl_union"
        channels = ABDOMEN.merged.channels if union else ABDOMEN.channels
        organs_only = union or which == "external_organs"
        for name in ABDOMEN.merged.classes if organs_only else ABDOMEN.classes:
            inside = [c for c in channels if c == name or (organs_only and organ_of(c) == name)]
            raw = [value for value, c in RAW.items() if c == name or (organs_only and organ_of(c) == name)]
            cases = []
            for number, label in enumerate(truth, start=1):
                prediction = predicted(compared / "runs" / job / "seed0", number, name)
                cases.append((np.isin(prediction, [channels.index(c) for c in inside]), np.isin(label, raw)))
            mean, n = dice_by_hand(cases)
            assert found[job, name] == (pytest.approx(mean, abs=1e-9), n), (job, name)
            checked += 1
    assert checked == ((len(JOBS) - 1) * 7 + 4 if which == "external" else len(JOBS) * 4)
    assert max(mean for mean, _ in found.values()) > 0.1, "zeros everywhere would agree with anything"


def test_all_parts_of_the_comparison_are_written(compared):
    assert {p.name for p in compared.iterdir()} >= {f"comparison.{kind}" for kind in ("html", "md", "csv", "json")}
    page = (compared / "comparison.html").read_text(encoding="utf-8")
    assert all(job in page for job in JOBS)
    assert page.count("data:image/png;base64") >= 1, "overlays side by side"
    tests = (compared / "tests.csv").read_text(encoding="utf-8").splitlines()
    assert len(tests) > (len(JOBS) - 1) * (len(JOBS) - 2) / 2


def test_finished_runs_are_not_repeated_and_a_missing_one_is_made(compared):
    reports = {job: compared / "runs" / job / "seed0" / "report.json" for job in JOBS}
    before = {job: path.stat().st_mtime_ns for job, path in reports.items()}
    expected = rows(compared, "external")
    shutil.rmtree(reports["fedavg"].parent)
    done = compare(compared, *JOBS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = {job: path.stat().st_mtime_ns for job, path in reports.items()}
    assert {job for job in JOBS if after[job] != before[job]} == {"fedavg"}
    assert rows(compared, "external") == expected, "the same seed gives the same numbers"
