"""The tables of MMDS: what is kept of a class after every stage, every site before and after, the paper's numbers."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_adaptation import SPACE, adapted_record, adapted_run, trained_alone_record

import fedpartial
from fedpartial.evaluation.comparison import compare
from fedpartial.evaluation.formats import UNDEFINED
from fedpartial.evaluation.summary import pooled_means

BENCHMARKS = Path(fedpartial.__file__).parents[2] / "benchmarks"


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mmds_stages")


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mmds_published")


def after(dice: dict[str, float], *, job: str = "mmds_evaluate", seed: int = 0) -> dict:
    """A report in which the sites "full" and "liver" have scored these classes; 10 mm times what lacks is the ASSD."""
    record = adapted_record("central", job=job, seed=seed)
    entry = next(iter(record.sites["central"].values()))
    scores = {
        name: {**entry, "dice": {"mean": d, "sd": None, "n": 2}, "assd_mm": {"mean": 10 * (1 - d), "sd": None, "n": 2}}
        for name, d in dice.items()
    }
    sites = {"full": scores, "liver": {name: scores[name] for name in scores if name == "liver"}}
    return replace(record, sites=sites, external={}, cases={}).to_report()


def test_a_class_that_gets_worse_after_its_best_stage_is_forgotten(stages):
    given = {"1": [after({"liver": 0.9})], "2": [after({"liver": 0.8, "spleen": 0.5})], "3": [after({"liver": 0.85})]}
    assert list(stages.rows(given, "full")) == [
        ("liver", "0.900 / 1.00", "0.800 / 2.00", "0.850 / 1.50", "-0.050"),
        ("spleen", UNDEFINED, "0.500 / 5.00", UNDEFINED, UNDEFINED),
    ]
    assert stages.places(given) == ["all sites", "full", "liver"]
    assert [row[0] for row in stages.rows(given, "liver")] == ["liver"]


@pytest.mark.parametrize(
    ("dice", "text"),
    [([0.5, 0.75], "+0.250"), ([0.75, None, 0.5], "-0.250"), ([0.5], UNDEFINED), ([0.5, None], UNDEFINED)],
)
def test_what_is_kept_of_a_class(stages, dice, text):
    assert stages.kept(dice) == text


def test_seeds_count_alike_and_sites_by_their_cases(stages):
    two = [after({"liver": 0.8}), after({"liver": 0.6}, seed=1)]
    assert stages.value(two, "full", "liver", "dice") == pytest.approx(0.7)
    report = adapted_record().to_report()
    everywhere = pooled_means(report["sites"].values(), "dice")["liver"][0]
    assert stages.value([report], "all sites", "liver", "dice") == pytest.approx(everywhere)
    assert stages.value([report], "external set", "liver", "dice") == report["external"]["liver"]["dice"]["mean"]


def test_every_site_stands_before_and_after(stages):
    report = trained_alone_record().to_report()
    rows = list(stages.own_rows({"stage 1": [report], "evaluation": [after({"liver": 0.9})]}))
    assert [row[:2] for row in rows] == [("stage 1", site) for site in report["sites"]]
    local, global_, both = rows[2][2:]
    assert local.startswith("0.89")
    assert global_ == f"{report['unadapted_sites']['spleen']['spleen']['dice']['mean']:.3f} / {UNDEFINED}"
    assert both.startswith("0.8")


def test_of_a_comparison_the_evaluations_count_in_the_order_of_its_plan(stages, tmp_path, monkeypatch, capsys):
    methods = ["stage 1", "after 1", "after 2", "after 2, adapted local"]
    (tmp_path / "comparison.json").write_text(json.dumps({"methods": methods}))
    reports = {
        "stage-1": trained_alone_record().to_report(),
        "after-2": after({"liver": 0.5, "spleen": 0.75}),
        "after-1": after({"liver": 0.25}),
    }
    for folder, report in reports.items():
        (tmp_path / f"runs/{folder}/seed0").mkdir(parents=True)
        (tmp_path / f"runs/{folder}/seed0/report.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", ["mmds_stages.py", str(tmp_path), "-o", str(tmp_path / "out")])
    stages.main()
    text = (tmp_path / "out/stages.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert text.count("| class | after 1 | after 2 | kept |") == 3
    assert "| liver | 0.250 / 7.50 | 0.500 / 5.00 | +0.250 |" in text
    assert "| stage 1 | spleen | 0.8" in text
    assert (tmp_path / "out/stages.png").read_bytes().startswith(b"\x89PNG")


def test_run_folders_are_stages_in_the_order_given(stages, tmp_path):
    for name in ("second", "first"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(after({"liver": 0.5}, job="fedavg")))
    runs = stages.read_runs([tmp_path / "second", tmp_path / "first"])
    assert list(stages.only_evaluations(runs)) == ["second", "first"]


def test_the_papers_distance_from_central_training_stands_beside_ours(published):
    names = {"federated": published.MMDS, "central": published.CENTRAL}
    runs = [replace(adapted_run(method), method=name) for method, name in names.items()]
    found = {row[0]: row[1:] for row in published.rows(compare(runs, title="t").to_json(), "external")}
    assert len(published.HEAD) == 1 + len(found[published.MMDS])
    paper, _, paper_share, our_share, paper_good, our_good, _ = found[published.MMDS]
    assert (paper, paper_share, paper_good) == ("78.65 %", "92.4 %", "12 of 15")
    means = {name: float(row[1].removesuffix(" %")) for name, row in found.items() if name in names.values()}
    assert our_share == f"{100 * means[published.MMDS] / means[published.CENTRAL]:.1f} %"
    assert our_good == f"{len(SPACE.classes)} of {len(SPACE.classes)}"
    assert found[published.CENTRAL][2:4] == ("100.0 %", "100.0 %")


def test_a_lesion_is_no_organ_in_the_mean(published):
    entry = {"mean": 0.9, "sd": None}
    classes = {"liver": entry, "liver_tumor": {"mean": 0.1, "sd": None}, "spleen": {"mean": 0.6, "sd": None}}
    scores = {"external": {"dice": {"m": {"macro": entry, "classes": classes}}}}
    assert published.organs({"scores": scores}, "external", "m") == {"liver": 0.9, "spleen": 0.6}
    assert published.organs({"scores": scores}, "external", "other") == {}
