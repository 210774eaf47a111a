"""From the answers of two sites to a report: which model is selected, what is scored, what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_hospital import write_case

from federation import TINY, tiny_plan
from fedpartial.evaluation import page
from fedpartial.evaluation.adaptation import adaptation_section
from fedpartial.evaluation.metrics import score_case
from fedpartial.evaluation.record import validate_report
from fedpartial.evaluation.report import read_report
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.final_report import FinalReport
from fedpartial.server.metrics_check import MetricsRefused
from fedpartial.server.provenance import source_commit, versions
from fedpartial.server.run_history import RunHistory
from private_heads import TINY_HEADS, heads_plan

CLASSES = {"north": ("liver", "liver_tumor"), "south": ("spleen",)}
BEST_OF_EARLIER_ROUNDS = 0.5


def case_scores(site: str, *, shift: int) -> dict:
    """What a site sends of one test case: a cube of its first class, predicted ``shift`` voxels beside it."""
    space = TINY.label_space
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:6, 2:6, 2:6] = space.index(CLASSES[site][0])
    scores = score_case(
        np.roll(reference, shift, axis=0),
        reference,
        spacing_mm=(2.0, 2.0, 2.0),
        space=space,
        labelled=space.labelled_mask(CLASSES[site]),
    )
    return scores.to_dict()


def answer(site: str, validation: dict[str, float], shifts: dict[str, int]) -> dict:
    """A site's answer: validation Dice and one test case by model."""
    return {
        "validation": {model: {CLASSES[site][0]: dice} for model, dice in validation.items()},
        "testing": {model: [case_scores(site, shift=shift)] for model, shift in shifts.items()},
        "device": "cpu",
    }


def two_rounds() -> RunHistory:
    history = RunHistory(2)
    facts = {"device": "cpu", "precision": "float32", "source": "site file", "setup_seconds": 1.0, "num_training": 2}
    for number in range(2):
        history.start_round(number)
        for site, classes in CLASSES.items():
            dice = {classes[0]: BEST_OF_EARLIER_ROUNDS} if number else {}
            history.add_update(site, {"loss": 1.0, "val_dice": dice, "seconds": 2.0, "bytes_down": 10, **facts}, 10)
        history.is_best(history.score_incoming(), number)
        history.finish_round()
    return history


def new_report(folder) -> FinalReport:
    return FinalReport(plan=tiny_plan(), history=two_rounds(), config_dir=folder / "local")


@pytest.fixture
def report(tiny, tmp_path):
    return new_report(tmp_path)


@pytest.fixture(scope="module")
def weights():
    return {n: t.numpy() for n, t in canonical_state(build_network(TINY, seed=0)).items()}


def external_hospital(folder) -> None:
    """A fully described external set of two cases in the server's own site file."""
    data = folder / "data"
    entries = [write_case(data, f"mrs_miller{i}", seed=i) for i in range(2)]
    (data / "datalist.json").write_text(json.dumps({"training": [], "testing": entries}))
    (folder / "local" / "sites").mkdir(parents=True)
    site = {"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": str(data), "device": "cpu"}
    (folder / "local" / "sites" / "external.json").write_text(json.dumps(site))


# --- selection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("final", "selected", "number", "dice"),
    [(0.8, "final", 2, 0.8), (0.5, "final", 2, 0.5), (0.2, "best", 1, BEST_OF_EARLIER_ROUNDS)],
    ids=["final is better", "a tie", "best is better"],
)
def test_the_better_of_final_and_best_is_selected(report, final, selected, number, dice):
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {"final": final, "best": 0.5}, {"final": 0, "best": 1}))
    assert report.select({"final": {}, "best": {}}) == selected
    assert (report.selected_round, report.selected_dice) == (number, pytest.approx(dice))
    assert report.history.rounds[-1].val_dice == pytest.approx(final), "the last aggregate has a score"


def test_without_a_best_model_the_final_one_is_selected(tiny, tmp_path):
    history = RunHistory(1)
    history.start_round(0)
    report = FinalReport(plan=tiny_plan(num_rounds=1), history=history, config_dir=tmp_path)
    report.add_site_scores("north", answer("north", {"final": 0.1}, {"final": 0}))
    assert report.select({"final": {}}) == "final"
    assert (report.selected_round, report.selected_dice) == (1, pytest.approx(0.1))


def test_when_no_site_answers_the_best_scored_model_is_selected(report):
    """The last aggregate has no score, least of all that of another model."""
    assert report.select({"final": {}, "best": {}}) == "best"
    assert (report.selected_round, report.selected_dice) == (1, BEST_OF_EARLIER_ROUNDS)
    assert report.history.rounds[-1].val_dice is None


@pytest.mark.parametrize("dice", [None, 0.2])
def test_the_final_model_keeps_its_own_score_where_it_is_the_only_one(report, dice):
    if dice is not None:
        report.add_site_scores("north", answer("north", {"final": dice}, {"final": 0}))
    assert report.select({"final": {}}) == "final"
    assert (report.selected_round, report.selected_dice) == (2, dice)


def test_an_answer_with_unknown_scores_is_refused(report):
    bad = answer("north", {"final": 0.1}, {"final": 0})
    bad["testing"]["final"][0]["recall"] = {}
    with pytest.raises(MetricsRefused, match=r"north.*recall"):
        report.add_site_scores("north", bad)


def test_nothing_of_a_refused_answer_is_kept(report):
    """A NaN compares as neither worse nor better: it would select the final model, whatever it is worth."""
    report.add_site_scores("south", answer("south", {"final": 0.25}, {"final": 0, "best": 1}))
    for bad in ({"final": float("nan")}, {"final": 0.5, "best": 2.0}):
        with pytest.raises(MetricsRefused, match="Dice"):
            report.add_site_scores("north", answer("north", bad, {"final": 0}))
    assert report.select({"final": {}, "best": {}}) == "best"
    assert report.history.rounds[-1].val_dice == 0.25
    assert "north" not in report.testing["final"]


# --- the written report -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tiny, weights, tmp_path_factory):
    """The report of two sites, a failed third one, and an external set."""
    folder = tmp_path_factory.mktemp("server")
    external_hospital(folder)
    report = new_report(folder)
    models = {"final": 0, "best": 1, "local north": 2}
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {"final": 0.8, "best": 0.5}, models))
    report.failures["west"] = "EXECUTION_EXCEPTION"
    report.select({"final": weights, "best": weights})
    paths, table = report.write(folder / "out", {"final": weights}, lambda: False)
    return paths, table, json.loads(paths.json.read_text(encoding="utf-8"))


def test_the_report_keeps_its_contract_and_says_what_happened(written, weights):
    paths, table, report = written
    validate_report(report)
    assert all(path.stat().st_size > 0 for path in (paths.html, paths.scores_csv, paths.rounds_csv))
    assert report["selected_model"] == {"name": "final", "round": 2, "val_dice": pytest.approx(0.8)}
    assert [r["val_dice"] for r in report["rounds"]] == [pytest.approx(0.5), pytest.approx(0.8)]
    assert (report["job"], report["preset"], report["seed"]) == ("test", "tiny", 3)
    assert report["exchange"]["parameters"] == sum(value.size for value in weights.values())
    assert report["exchange"]["bytes_per_message"] == 4 * report["exchange"]["parameters"]
    assert report["exchange"]["bytes_up"] == 2 * 2 * 10
    assert any("west" in note and "EXECUTION_EXCEPTION" in note for note in report["notes"])
    assert "liver" in table


def test_the_selected_models_scores_are_shown_and_all_models_compared(written):
    _, _, report = written
    shown = report["sites"]["north"]["liver"]["dice"]
    assert (shown["mean"], shown["n"]) == (1.0, 1)
    assert set(report["cross_site"]) == {"final", "best", "local north"}
    assert report["cross_site"]["best"]["south"]["spleen"] == pytest.approx(0.75)
    assert report["cross_site"]["final"]["south"]["spleen"] == 1.0
    assert len(report["cases"]["north"]) == 1


def test_the_external_set_is_scored_with_overlays_and_without_names(written):
    paths, _, report = written
    assert len(report["cases"]["external"]) == 2
    assert set(report["external"]) == {"liver", "liver_tumor"}
    assert paths.html.read_text(encoding="utf-8").count("data:image/png;base64,") >= 1
    for path in (paths.json, paths.html, paths.scores_csv, paths.rounds_csv):
        assert "miller" not in path.read_text(encoding="utf-8"), path.name


def test_without_an_external_set_a_note_says_how_to_have_one(report, weights, without_figures, tmp_path):
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {"final": 0.8}, {"final": 0}))
    report.select({"final": weights})
    paths, _ = report.write(tmp_path / "out", {"final": weights}, lambda: False)
    written = json.loads(paths.json.read_text(encoding="utf-8"))
    assert written["external"] == {}
    assert "external" not in written["cases"]
    assert any("external.json" in note for note in written["notes"])


def test_stop_ends_the_scoring_of_the_external_set(report, weights, without_figures, tmp_path):
    external_hospital(tmp_path)
    report.select({"final": weights})
    paths, _ = report.write(tmp_path / "out", {"final": weights}, lambda: True)
    assert json.loads(paths.json.read_text(encoding="utf-8"))["external"] == {}


# --- without a global model ---------------------------------------------------------------------------


LOCAL_MODELS = {"local north": {}, "local south": {}}


@pytest.fixture
def local_report(report):
    """Two sites, each with the scores of both local models and the validation of its own."""
    for site, shift in (("north", 0), ("south", 1)):
        dice = {f"local {site}": 0.75 if site == "north" else 0.25}
        report.add_site_scores(site, answer(site, dice, {"local north": shift, "local south": 1 - shift}))
    report.select_local()
    return report


def test_no_model_is_selected_and_the_last_round_has_the_mean_of_the_local_ones(local_report):
    assert local_report.selected is None
    assert local_report.history.rounds[-1].val_dice == pytest.approx((0.75 + 0.25) / 2)
    assert local_report.history.rounds[-1].site_dice == {"north": 0.75, "south": 0.25}


def test_every_class_belongs_to_the_site_that_annotates_it(local_report):
    owners = local_report._owners(LOCAL_MODELS)
    assert owners == {"liver": "local north", "liver_tumor": "local north", "spleen": "local south"}
    assert local_report._owners({"local south": {}}) == {"spleen": "local south"}


@pytest.mark.parametrize(("north", "south", "owner"), [(3, 2, "north"), (2, 3, "south"), (2, 2, "south")])
def test_of_two_sites_with_a_class_the_one_with_more_training_cases_answers(local_report, north, south, owner):
    both = local_report.testing["local north"]["north"]
    local_report.testing["local south"]["south"] = {**local_report.testing["local south"]["south"], **both}
    local_report.history.facts["north"]["num_training"] = north
    local_report.history.facts["south"]["num_training"] = south
    assert local_report._owners(LOCAL_MODELS)["liver"] == f"local {owner}"


def test_the_report_shows_every_site_with_its_own_model(local_report, without_figures, tmp_path):
    paths, _ = local_report.write(tmp_path / "out", LOCAL_MODELS, lambda: False)
    written = json.loads(paths.json.read_text(encoding="utf-8"))
    validate_report(written)
    assert written["selected_model"] is None
    assert written["sites"]["north"]["liver"]["dice"]["mean"] == 1.0
    assert written["sites"]["south"]["spleen"]["dice"]["mean"] == 1.0
    assert written["cross_site"]["local north"]["south"]["spleen"] == pytest.approx(0.75)
    assert {site: len(cases) for site, cases in written["cases"].items()} == {"north": 1, "south": 1}
    assert any("no global model" in note for note in written["notes"])


def test_a_site_without_an_answer_has_neither_scores_nor_classes(report, without_figures, tmp_path):
    report.add_site_scores("north", answer("north", {"local north": 0.5}, {"local north": 0, "local south": 1}))
    report.failures["south"] = "gone"
    report.select_local()
    assert "spleen" not in report._owners(LOCAL_MODELS)
    paths, _ = report.write(tmp_path / "out", LOCAL_MODELS, lambda: False)
    assert set(json.loads(paths.json.read_text(encoding="utf-8"))["sites"]) == {"north"}


# --- where it comes from ------------------------------------------------------------------------------


def test_versions_name_what_the_numbers_depend_on():
    found = versions()
    assert {"python", "fedpartial", "nvflare", "torch", "monai", "numpy"} <= set(found)
    assert "not installed" not in found.values()


def test_the_commit_is_short_or_unknown():
    commit = source_commit()
    assert commit is None or (commit.rstrip("+").isalnum() and len(commit.rstrip("+")) == 12)


# --- which classes a model knows ----------------------------------------------------------------------


def knows(tmp_path, plan, weights, answers: dict[str, dict]) -> list[str]:
    history = two_rounds()
    for r in history.rounds:
        for site in r.sites.values():
            site["val_dice"] = {}
    report = FinalReport(plan=plan, history=history, config_dir=tmp_path)
    for site, given in answers.items():
        report.add_site_scores(site, given)
    report.selected = "final"
    return list(report._owners({"final": weights}))


def test_a_class_that_no_site_annotates_is_not_scored(tiny, tmp_path):
    answers = {site: answer(site, {"final": 0.5}, {"final": 1}) for site in CLASSES}
    assert knows(tmp_path, tiny_plan(), {}, answers) == ["liver", "liver_tumor", "spleen"]


def test_all_classes_are_scored_where_a_site_tells_nothing(tiny, tmp_path):
    """It may have neither validation nor test cases, and still have taught the model its class."""
    answers = {"north": answer("north", {"final": 0.5}, {"final": 1})}
    assert knows(tmp_path, tiny_plan(), {}, answers) == list(TINY.label_space.classes)


def test_with_private_heads_the_model_itself_says_what_it_knows(tiny, tmp_path):
    part = canonical_state(build_network(TINY_HEADS, seed=0, head_classes=("pancreas", "kidney")))
    weights = assemble({}, {"north": {name: tensor.numpy() for name, tensor in part.items()}}, {"north": 2})
    answers = {site: answer(site, {}, {}) for site in CLASSES}
    assert knows(tmp_path, heads_plan(), weights, answers) == ["pancreas", "kidney"]


# --- site adaptation and runs without rounds ----------------------------------------------------------


def test_adapted_models_reach_the_report_and_nothing_else(report, weights, tmp_path):
    """They neither take part in the selection nor tell whose scores a site has."""
    for site, shift in (("north", 0), ("south", 1)):
        report.add_site_scores(
            site, answer(site, {"adapted all": 0.99}, {"adapted all": shift, "adapted decoder_frozen": 3})
        )
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {"final": 0.8}, {"final": 2}))
    assert report.select({"final": weights}) == "final"
    assert report.selected_dice == pytest.approx(0.8)
    paths, table = report.write(tmp_path / "out", {"final": weights}, lambda: False)
    found = read_report(paths.json)
    assert list(found["adapted_sites"]) == list(found["adapted_cases"]) == ["all", "decoder_frozen"]
    assert found["adapted_sites"]["all"]["north"]["liver"]["dice"]["mean"] == 1.0
    assert found["adapted_cases"]["all"]["south"][0]["dice"]["spleen"] == pytest.approx(0.75)
    assert found["sites"]["north"]["liver"]["dice"]["mean"] == pytest.approx(0.5), "the federated model's"
    assert found["cross_site"]["adapted all"] == {
        "north": {"liver": 1.0, "liver_tumor": None},
        "south": {"spleen": pytest.approx(0.75)},
    }
    assert "Site adaptation" in table


def test_the_adapted_models_stand_beside_the_one_they_started_from_when_another_is_selected(
    report, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(page, "_figures", lambda *_: {})
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {"adapted all": 0.3}, {"adapted all": 0}))
        report.add_site_scores(site, answer(site, {"final": 0.2, "best": 0.5}, {"final": 2, "best": 1}))
    assert report.select({"final": weights, "best": weights}) == "best"
    found = read_report(report.write(tmp_path / "out", {"best": weights}, lambda: False)[0].json)
    assert found["sites"]["south"]["spleen"]["dice"]["mean"] == pytest.approx(0.75)
    assert found["unadapted_sites"]["south"]["spleen"]["dice"]["mean"] == pytest.approx(0.5)
    assert found["unadapted_cases"]["south"][0]["dice"]["spleen"] == pytest.approx(0.5)
    models = adaptation_section(found, TINY.label_space.classes)["sites"]["south"]["models"]
    assert models["federated model"]["mean"]["dice"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["adapted", "adapted ", "adapted heads", "adapted all "])
def test_other_ways_of_adaptation_are_refused(report, name):
    with pytest.raises(MetricsRefused, match="a known one"):
        report.add_site_scores("north", answer("north", {}, {name: 0}))


def without_rounds(tmp_path) -> FinalReport:
    return FinalReport(plan=tiny_plan(num_rounds=0), history=RunHistory(0), config_dir=tmp_path / "local")


FACTS = {"device": "cpu", "precision": "float32", "source": "site file", "setup_seconds": 1.5, "num_training": 2}


def test_a_run_without_rounds_reports_the_model_that_it_started_from(tiny, tmp_path, weights):
    report = without_rounds(tmp_path)
    for site in CLASSES:
        report.add_site_scores(site, answer(site, {}, {"adapted all": 0}) | FACTS)
        report.add_site_scores(site, answer(site, {"final": 0.6}, {"final": 1}) | FACTS)
    assert report.select({"final": weights}) == "final"
    paths, _ = report.write(tmp_path / "out", {"final": weights}, lambda: False)
    found = read_report(paths.json)
    assert found["selected_model"] == {"name": "final", "round": 0, "val_dice": pytest.approx(0.6)}
    assert (found["rounds"], found["device"]) == ([], dict.fromkeys(CLASSES, "cpu"))
    assert found["phases"]["data preparation (slowest site)"] == 1.5
    assert found["exchange"]["bytes_up"] == 0
    assert "0 rounds" in paths.html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change", [{"device": "gpu01"}, {"device": ["cpu"]}, {"num_training": None}, {"setup_seconds": float("nan")}]
)
def test_facts_that_are_none_are_refused_and_nothing_is_kept(tiny, tmp_path, change):
    report = without_rounds(tmp_path)
    with pytest.raises(MetricsRefused, match=next(iter(change))):
        report.add_site_scores("north", answer("north", {"final": 0.6}, {"final": 1}) | FACTS | change)
    assert report.history.facts == report.validation == report.testing == {}


def test_a_site_that_says_little_of_itself_still_has_scores(tiny, tmp_path):
    report = without_rounds(tmp_path)
    report.add_site_scores("north", answer("north", {"final": 0.6}, {"final": 1}))
    assert report.history.facts == {}
    assert report.testing["final"]["north"]


def test_facts_of_a_run_with_rounds_stay_those_of_its_updates(report):
    report.add_site_scores("north", answer("north", {"final": 0.6}, {"final": 1}) | FACTS | {"num_training": 99})
    assert report.history.facts["north"]["num_training"] == 2
