"""Site adaptation in a report: every number at its place, kinds of cases apart, and no trace of it in other reports."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from made_up_adaptation import GAINS, JITTER, LEVELS, SITES, SPACE, adapted_record, trained_alone_record
from rich.console import Console

from fedpartial.evaluation.adaptation import ADAPTED, OWN_MODELS, adaptation_section
from fedpartial.evaluation.annotated import FULLY, PARTIALLY, all_classes
from fedpartial.evaluation.cautions import find_cautions
from fedpartial.evaluation.page import render_page
from fedpartial.evaluation.record import RunRecord, validate_report
from fedpartial.evaluation.report import read_report, write_report
from fedpartial.evaluation.table import console_table
from fedpartial.evaluation.withhold import withhold
from fedpartial.training import reported

MODELS = ["federated model", "adapted all", "adapted encoder frozen", "adapted decoder frozen"]


@pytest.fixture
def record() -> RunRecord:
    return adapted_record()


@pytest.fixture
def section(record) -> dict:
    return adaptation_section(record.to_report(), SPACE.classes)


def dice(record: RunRecord, sites: list[str], name: str) -> float:
    return float(np.mean([case.dice[name] for site in sites for case in record.cases[site] if name in case.dice]))


def section_titles(report: dict) -> list[str]:
    return [group["title"] for group in adaptation_section(report, SPACE.classes)["groups"]]


def shown(report) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(console_table(report))
    return console.file.getvalue()


def test_every_way_stands_beside_the_federated_model(section, record):
    assert section["models"] == MODELS
    everywhere = section["groups"][0]["models"]
    for model, gain in zip(MODELS, (0, *GAINS.values()), strict=True):
        values = everywhere[model]["classes"]["liver"]
        assert values["dice"] == pytest.approx(dice(record, ["full", "liver"], "liver") + gain, abs=2 * JITTER)
        assert values["hd95_mm"] == pytest.approx(100 * (1 - values["dice"]))
    assert everywhere["federated model"]["mean"]["dice"] == pytest.approx(
        np.mean([dice(record, ["full", name] if name in SITES else ["full"], name) for name in SPACE.classes])
    )


def test_fully_and_partially_annotated_cases_stand_apart(section, record):
    _, full, partial = section["groups"]
    assert (full["title"], full["sites"]) == (FULLY, {"full": 3})
    assert (partial["title"], partial["sites"]) == (PARTIALLY, {"liver": 4, "spleen": 5})
    assert list(full["models"]["adapted all"]["classes"]) == list(SPACE.classes)
    assert list(partial["models"]["adapted all"]["classes"]) == ["liver", "spleen"]
    assert partial["models"]["federated model"]["mean"]["dice"] == pytest.approx(
        (dice(record, ["liver"], "liver") + dice(record, ["spleen"], "spleen")) / 2
    )


def test_a_site_has_the_mean_over_its_own_classes(section, record):
    assert [found["annotates"] for found in section["sites"].values()] == ["all classes", "liver", "spleen"]
    spleen = section["sites"]["spleen"]["models"]["adapted decoder frozen"]["mean"]["dice"]
    assert spleen == pytest.approx(dice(record, ["spleen"], "spleen") + GAINS["decoder_frozen"], abs=2 * JITTER)


def test_the_federated_model_is_the_one_that_was_adapted_not_the_selected_one(record, section):
    """An earlier round was selected: sites and cases of the run are those of another model."""
    other = adapted_record("central", sites=record.adapted_sites["all"], cases=record.adapted_cases["all"])
    selected = {"name": "best", "round": 1, "val_dice": 0.9}
    changed = replace(record, sites=other.sites, cases=other.cases, selected_model=selected)
    assert adaptation_section(changed.to_report(), SPACE.classes) == section


def test_reports_of_earlier_versions_have_the_selected_model_in_its_place(record, section):
    report = record.to_report()
    for name in ("unadapted_sites", "unadapted_cases"):
        del report[name]
    validate_report(report)
    assert adaptation_section(report, SPACE.classes) == section


def test_one_kind_of_cases_alone_is_shown_once(record):
    partial = {way: {s: v for s, v in found.items() if s != "full"} for way, found in record.adapted_sites.items()}
    (group,) = adaptation_section(replace(record, adapted_sites=partial).to_report(), SPACE.classes)["groups"]
    assert list(group["sites"]) == ["liver", "spleen"]


def test_means_are_over_sites_that_have_all_models(record):
    adapted = {way: dict(found) for way, found in record.adapted_sites.items()}
    del adapted["all"]["liver"]
    section = adaptation_section(replace(record, adapted_sites=adapted).to_report(), SPACE.classes)
    assert list(section["groups"][0]["sites"]) == ["full", "spleen"]
    assert section["sites"]["liver"]["models"]["adapted all"] is None
    assert section["sites"]["liver"]["models"]["adapted encoder frozen"] is not None


def test_a_missed_class_leaves_no_mean_distance_of_the_easier_ones(record):
    report = record.to_report()
    report["adapted_sites"]["all"]["full"]["pancreas"]["hd95_mm"] = {"mean": None, "sd": None, "n": 0}
    means = adaptation_section(report, SPACE.classes)["sites"]["full"]["models"]["adapted all"]
    assert means["classes"]["pancreas"]["hd95_mm"] is None
    assert means["mean"]["hd95_mm"] is None
    assert means["mean"]["dice"] is not None


def test_a_site_that_sends_summaries_counts_by_its_classes(record):
    """It keeps back what few cases stand behind, here everything of the site "full"."""
    adapted = {way: {s: withhold(v, 4) for s, v in found.items()} for way, found in record.adapted_sites.items()}
    sites = {site: withhold(summary, 4) for site, summary in record.sites.items()}
    cases = {"external": record.cases["external"]}
    given = {"adapted_sites": adapted, "adapted_cases": {}, "unadapted_sites": sites, "unadapted_cases": {}}
    changed = replace(record, sites=sites, cases=cases, **given)
    section = adaptation_section(changed.to_report(), SPACE.classes)
    assert [list(group["sites"]) for group in section["groups"][1:]] == [["full"], ["liver", "spleen"]]
    assert section["sites"]["full"]["models"]["adapted all"]["mean"]["dice"] is None
    assert section["groups"][0]["models"]["adapted all"]["classes"]["liver"]["dice"] is not None
    assert "Site adaptation" in shown(changed)


def test_page_console_and_csv_have_it(record, tmp_path):
    paths = write_report(record, tmp_path)
    page = paths.html.read_text(encoding="utf-8")
    assert 'href="#adaptation"' in page
    assert page.count(">adapted encoder frozen<") == 3 + 1, "a row of each kind, a column of the sites' table"
    assert "Fully annotated" in page
    with paths.adapted_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(GAINS) * (3 * len(SPACE.classes) + 4 + 5)
    report = read_report(paths.json)
    row = next(row for row in rows if (row["way"], row["site"], row["case"]) == ("encoder_frozen", "spleen", "2"))
    assert float(row["dice"]) == report["adapted_cases"]["encoder_frozen"]["spleen"][1]["dice"]["spleen"]
    text = shown(report)
    assert all(word in text for word in ("Site adaptation", "encoder", *section_titles(report), *SITES))
    assert "…" not in text


def test_runs_without_adaptation_show_nothing_of_it(tmp_path):
    record = adapted_record("central")
    paths = write_report(record, tmp_path)
    assert paths.adapted_csv is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "report.json",
        "rounds.csv",
        "scores.csv",
    ]
    assert "daptation" not in paths.html.read_text(encoding="utf-8")
    assert "daptation" not in shown(record)


def test_reports_of_earlier_versions_still_make_a_page():
    report = adapted_record("central").to_report()
    for name in ("adapted_sites", "adapted_cases", "unadapted_sites", "unadapted_cases", "pretrain_rounds"):
        del report[name]
    validate_report(report)
    assert "daptation" not in render_page(report, (), SPACE)
    assert "daptation" not in shown(report)


def test_absence_after_the_pretraining_is_still_told(record):
    said = [find_cautions(replace(record, pretrain_rounds=n).to_report(), SPACE) for n in (0, 1)]
    assert "liver took no part in 1 of 2 rounds." in said[0]
    assert not any("took no part" in sentence for sentence in said[1])


def test_all_classes_are_those_of_the_label_space_in_use(record):
    assert all_classes(record.to_report()) == SPACE.classes
    assert LEVELS["federated"] == record.selected_model["val_dice"]


# --- sites that have trained alone (MMDS) ------------------------------------------------------------------


def test_the_names_of_own_models_are_those_that_sites_report():
    assert tuple(OWN_MODELS) == reported.SITE_OWN
    assert ADAPTED == reported.ADAPTED
    assert all(reported.MODEL_NAME.fullmatch(f"adapted {way}") for way in (*OWN_MODELS, *GAINS))
    assert not set(OWN_MODELS) & set(reported.ADAPTATION_WAYS), "no job can ask for them as a way of adaptation"


def test_own_models_have_names_of_their_own_and_a_distance_more():
    section = adaptation_section(trained_alone_record().to_report(), SPACE.classes)
    assert section["own"]
    assert section["models"] == ["global model", "local model", "personalised"]
    means = section["sites"]["spleen"]["models"]["local model"]["mean"]
    assert means["dice"] == pytest.approx(0.9, abs=0.03)
    assert means["assd_mm"] == pytest.approx(10 * (1 - means["dice"]))


def test_page_and_console_never_call_own_models_adapted(tmp_path):
    record = trained_alone_record()
    page = write_report(record, tmp_path).html.read_text(encoding="utf-8")
    assert "own models</h2>" in page
    assert page.count('<th scope="row">personalised</th>') == 3 + 1, (
        "a row of each kind, a row of the cross-site matrix"
    )
    for not_shown in ('id="adaptation"', '"#adaptation"', "adapted_scores.csv"):
        page = page.replace(not_shown, "")
    assert "dapt" not in page.split("<nav", 1)[1]
    text = shown(record)
    assert "own models" in text
    assert "dapt" not in text
    assert "…" not in text


def test_adaptation_keeps_its_own_words(record):
    section = adaptation_section(record.to_report(), SPACE.classes)
    assert (section["own"], section["title"], section["names"]) == (False, "Site adaptation", {})
    assert "ASSD" not in shown(record)
