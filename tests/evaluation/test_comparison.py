"""The comparison's numbers, recomputed from the cases with numpy, and which cases count as the same patient."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_runs import ALL, EXTERNAL_CASES, SITES, WITHOUT_TUMOUR, dice_of, made_up_run, made_up_runs

from fedpartial.errors import ConfigError
from fedpartial.evaluation.compared_run import by_method
from fedpartial.evaluation.comparison import Comparison, compare
from fedpartial.evaluation.comparison_costs import costs
from fedpartial.evaluation.comparison_scores import best
from fedpartial.evaluation.withhold import withhold
from fedpartial.server.final_report import FinalReport

METHODS = ("plain", "marginal", "distilled", "union", "central")
SEEDS = (0, 1, 2)
ORGANS = ("liver", "spleen", "kidney")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(made_up_runs(METHODS), title="Made up")


def patients(place: str, number: int, name: str) -> list[str]:
    """Patients of a place whose reference has the class."""
    found = [f"{place} {i}" for i in range(number)]
    return [p for p in found if not (name == "kidney_tumor" and p in WITHOUT_TUMOUR)]


def site_patients(name: str) -> list[str]:
    return [p for site, (names, n) in SITES.items() if name in names for p in patients(site, n, name)]


@pytest.mark.parametrize("method", ["plain", "marginal", "distilled", "central"])
def test_means_and_deviations_are_over_seeds_of_means_over_cases(comparison, method):
    for name in ALL:
        for which, found in (("external", patients("external", EXTERNAL_CASES, name)), ("sites", site_patients(name))):
            means = [np.mean([dice_of(method, seed, p, name) for p in found]) for seed in SEEDS]
            expected = {"mean": np.mean(means), "sd": np.std(means, ddof=1), "seeds": 3, "n": len(found)}
            assert comparison.scores[which]["dice"][method]["classes"][name] == pytest.approx(expected)
            distance = comparison.scores[which]["hd95_mm"][method]["classes"][name]
            assert distance["mean"] == pytest.approx(100 * (1 - expected["mean"]))


def test_macro_mean_weighs_classes_equally_and_keeps_every_seed(comparison):
    macro = comparison.scores["sites"]["dice"]["distilled"]["macro"]
    by_seed = [
        np.mean([np.mean([dice_of("distilled", seed, p, name) for p in site_patients(name)]) for name in ALL])
        for seed in SEEDS
    ]
    assert macro["by_seed"] == pytest.approx(dict(zip("012", by_seed, strict=True)))
    assert (macro["mean"], macro["sd"]) == pytest.approx((np.mean(by_seed), np.std(by_seed, ddof=1)))


def test_union_has_a_macro_mean_only_where_lesions_count_as_their_organ(comparison):
    assert comparison.scores["external"]["merged"] == ["union"]
    for which, complete in (("external", False), ("sites", False), ("external_organs", True)):
        union = comparison.scores[which]["dice"]["union"]
        assert (union["num_classes"], union["macro"]["mean"] is not None) == (3, complete), which
    assert comparison.scores["external_organs"]["classes"] == list(ORGANS)


def test_union_is_tested_only_where_lesions_count_as_their_organ(comparison):
    pairs = {which: {(t.a, t.b) for t in tests} for which, tests in comparison.tests.items()}
    others = set(itertools.combinations([m for m in METHODS if m != "union"], 2))
    assert pairs["external"] == pairs["sites"] == pairs["all"] == others
    assert pairs["external_organs"] == set(itertools.combinations(METHODS, 2))


def test_union_needs_no_second_summary_of_its_external_set(comparison):
    runs = [made_up_run("union", seed, external_organs={}) for seed in SEEDS]
    for run in runs:
        del run.report["cases"]["external_organs"]
    again = compare([*made_up_runs(("marginal",)), *runs], title="t")
    assert again.scores["external_organs"]["dice"]["union"] == comparison.scores["external_organs"]["dice"]["union"]
    assert [t.n for t in again.tests["external_organs"]] == [EXTERNAL_CASES]


def value(method: str, patient: str, names: tuple[str, ...]) -> float:
    scored = [n for n in names if not (n == "kidney_tumor" and patient in WITHOUT_TUMOUR)]
    return float(np.mean([np.mean([dice_of(method, seed, patient, n) for seed in SEEDS]) for n in scored]))


@pytest.mark.parametrize("other", ["marginal", "central"])
def test_the_unit_of_a_test_is_a_patient_also_when_sites_are_pooled(comparison, other):
    """The values are paired by patient although "central" lists the cases of all sites as its own."""
    at_sites = [(f"{site} {i}", names) for site, (names, n) in SITES.items() for i in range(n)]
    external = [(f"external {i}", ALL) for i in range(EXTERNAL_CASES)]
    for which, units in (("sites", at_sites), ("external", external), ("all", external + at_sites)):
        differences = [value("distilled", p, names) - value(other, p, names) for p, names in units]
        test = next(t for t in comparison.tests[which] if {t.a, t.b} == {"distilled", other})
        sign = 1 if test.a == "distilled" else -1
        assert test.n == len(units)
        assert test.difference == pytest.approx(sign * np.mean(differences))
        ranks = np.argsort(np.argsort(np.abs(differences))) + 1
        assert test.rank_biserial == pytest.approx(sign * (ranks @ np.sign(differences)) / ranks.sum())


def test_a_class_that_one_method_lacks_leaves_the_pairs_and_its_macro_mean():
    runs = made_up_runs(("plain", "marginal"))
    for run in (r for r in runs if r.method == "plain"):
        del run.report["external"]["spleen"]
        for case in run.report["cases"]["external"]:
            for field in ("dice", "hd95_mm", "assd_mm", "status", "leakage"):
                del case[field]["spleen"]
    found = compare(runs, title="t")
    plain = found.scores["external"]["dice"]["plain"]
    assert ("spleen" in plain["classes"], plain["num_classes"], plain["macro"]["mean"]) == (False, 3, None)
    without = tuple(name for name in ALL if name != "spleen")
    expected = [
        value("plain", f"external {i}", without) - value("marginal", f"external {i}", without) for i in range(4)
    ]
    assert [(t.n, t.difference) for t in found.tests["external"]] == [(4, pytest.approx(np.mean(expected)))]


def test_a_missed_class_counts_as_zero_and_an_undefined_one_not_at_all():
    runs = made_up_runs(("plain", "marginal"), seeds=(0,))
    case = runs[0].report["cases"]["external"][0]
    case["dice"]["liver"], case["status"]["liver"] = 0.0, "missed"
    case["dice"]["spleen"] = None
    test = compare(runs, title="t").tests["external"][0]
    first = (0.0 + dice_of("plain", 0, "external 0", "kidney") + dice_of("plain", 0, "external 0", "kidney_tumor")) / 3
    other = np.mean([dice_of("marginal", 0, "external 0", n) for n in ("liver", "kidney", "kidney_tumor")])
    rest = [_one_seed("plain", i) - _one_seed("marginal", i) for i in range(1, EXTERNAL_CASES)]
    assert test.difference == pytest.approx(np.mean([first - other, *rest]))


def _one_seed(method: str, number: int, seed: int = 0) -> float:
    patient = f"external {number}"
    names = [n for n in ALL if not (n == "kidney_tumor" and patient in WITHOUT_TUMOUR)]
    return float(np.mean([dice_of(method, seed, patient, n) for n in names]))


def test_only_seeds_that_both_methods_have_enter_a_test():
    runs = [*made_up_runs(("plain",)), *made_up_runs(("marginal",), seeds=(1, 7))]
    test = compare(runs, title="t").tests["external"][0]
    assert (test.seeds, test.n) == (1, EXTERNAL_CASES)
    differences = [_one_seed("plain", i, 1) - _one_seed("marginal", i, 1) for i in range(EXTERNAL_CASES)]
    assert test.difference == pytest.approx(np.mean(differences))
    apart = [*made_up_runs(("plain",)), *made_up_runs(("marginal",), seeds=(7,))]
    assert compare(apart, title="t").tests == {}


def test_a_site_without_cases_is_in_the_tables_but_not_in_the_tests(comparison):
    runs = made_up_runs(METHODS[:2])
    for run in runs:
        del run.report["cases"]["liver"]
    found = compare(runs, title="t")
    assert found.scores["sites"]["dice"]["plain"] == comparison.scores["sites"]["dice"]["plain"]
    assert [t.n for t in found.tests["sites"]] == [sum(n for _, n in SITES.values()) - 2]
    assert any("not in the tests: liver." in sentence for sentence in found.cautions)


def test_withheld_means_leave_the_table_and_are_named():
    runs = made_up_runs(METHODS[:2])
    for run in runs:
        run.report["sites"]["liver"] = withhold(run.report["sites"]["liver"], min_cases=5)
    found = compare(runs, title="t")
    assert "liver" not in found.scores["sites"]["classes"]
    assert "liver" in found.scores["external"]["classes"]
    assert any("Withheld by sites" in s and "liver of liver" in s for s in found.cautions)


def test_other_patients_are_noticed_and_not_paired():
    """One run's second kidney has a tumour that the others' lack; its kidney cases cannot be the same."""
    runs = made_up_runs(METHODS[:2])
    runs[1].report["cases"]["kidney"][2]["status"]["kidney_tumor"] = "scored"
    found = compare(runs, title="t")
    assert [t.n for t in found.tests["sites"]] == [4]
    assert any("not the same patients" in s and "kidney" in s for s in found.cautions)


def test_costs_and_curves(comparison):
    cost = comparison.costs["plain"]
    assert (cost["seconds"], cost["training_seconds"]) == (pytest.approx(26.0), pytest.approx(21.0))
    assert (cost["bytes_total"], cost["bytes_per_round"]) == (2 * 9000, 9000)
    assert comparison.costs["central"]["bytes_per_round"] == 3000
    assert (cost["rounds"], cost["local_steps"], cost["steps"]) == ([2], [10], [20])
    assert (cost["seeds"], cost["devices"], cost["presets"]) == ([0, 1, 2], ["cpu"], ["phantom"])
    assert cost["precisions"] == ["float32"]
    first = {"steps": 10, "mean": pytest.approx(0.31), "low": 0.3, "high": pytest.approx(0.32), "seeds": 3}
    assert comparison.curves["plain"][0] == first
    assert [point["steps"] for point in comparison.curves["plain"]] == [10, 20]


def test_times_are_without_the_data_preparation_of_the_first_run():
    """The server's own phases: its first round contains the preparation of the data."""
    rounds, facts = [SimpleNamespace(seconds=600.0), SimpleNamespace(seconds=20.0)], {"liver": {"setup_seconds": 580.0}}
    history = SimpleNamespace(rounds=rounds, first_facts=facts, phases={})
    phases = FinalReport(plan=SimpleNamespace(num_rounds=2), history=history, config_dir=Path())._all_phases()
    cost = costs([made_up_run("plain", 0, phases={**phases, "external set": 5.0})])
    assert (cost["training_seconds"], cost["seconds"]) == (40.0, 45.0)


def test_a_report_without_phases_has_the_time_of_its_rounds():
    cost = costs([made_up_run("plain", 0, phases={})])
    assert cost["training_seconds"] == cost["seconds"] == 20.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "d" * 40}, "same commit: cccccccccccc (plain); dddddddddddd (marginal)"),
        ({"preset": "abdomen"}, "same preset"),
        ({"empty_class_policy": "zero"}, "treat a class"),
        ({"local_steps": 20}, "local steps"),
        ({"device": {"liver": "cuda"}}, "kind of device, so their times do not compare: cpu (plain); cuda (marginal)"),
        ({"precision": {"liver": "amp"}}, "same precision: float32 (plain); amp (marginal)"),
    ],
)
def test_differences_between_methods_are_named(change, words):
    runs = [made_up_run("plain", seed) for seed in SEEDS] + [made_up_run("marginal", seed, **change) for seed in SEEDS]
    assert any(words in sentence for sentence in compare(runs, title="t").cautions)


def test_sites_on_different_devices_are_named_also_when_all_methods_have_them():
    device = {"liver": "cuda", "spleen": "cpu"}
    cautions = compare([made_up_run(method, 0, device=device) for method in METHODS[:2]], title="t").cautions
    assert any("do not compare: cpu, cuda (plain; marginal)" in sentence for sentence in cautions)


def test_changes_that_are_in_no_commit_are_named_also_when_all_runs_have_them(comparison):
    runs = [made_up_run("plain", 0, commit="c" * 12), made_up_run("marginal", 0, commit="c" * 12 + "+")]
    cautions = compare(runs, title="t").cautions
    assert any("nobody can make these runs again: marginal." in sentence for sentence in cautions)
    assert any("cccccccccccc (plain); cccccccccccc+ (marginal)" in sentence for sentence in cautions)
    assert not any("make these runs again" in sentence for sentence in comparison.cautions)


def test_few_or_other_seeds_and_tests_without_power_are_named(comparison):
    cautions = " ".join(compare([*made_up_runs(("plain",)), made_up_run("marginal", 0)], title="t").cautions)
    assert "Fewer than 3 seeds: marginal." in cautions
    assert "same seeds: 0, 1, 2 (plain); 0 (marginal)." in cautions
    assert "No test can be significant for the external set: with 4 cases" in cautions
    ours = " ".join(comparison.cautions)
    assert "The organs of union contain their lesions" in ours
    assert "seed" not in ours


def test_best_is_the_highest_dice_and_the_lowest_distance_of_comparable_methods(comparison):
    external = comparison.scores["external"]
    assert best(external, "dice", None) == best(external, "hd95_mm", "liver") == {"central"}
    easy = copy.deepcopy(external)
    easy["hd95_mm"]["plain"]["classes"]["liver"] |= {"mean": 1.0, "n": 2}
    assert best(easy, "hd95_mm", "liver") == {"central"}, "plain missed it in the difficult cases"
    easy["hd95_mm"]["plain"]["macro"]["mean"] = 0.5
    assert best(external, "hd95_mm", None) == {"central"}
    assert best(easy, "hd95_mm", None) == set(), "plain's mean is from easy cases, and central's from others"
    assert best(easy, "dice", None) == {"central"}, "a missed class counts there"
    easy["dice"]["union"]["classes"]["liver"]["mean"] = 1.0
    assert best(easy, "dice", "liver") == {"central"}, "union's organs are other structures"


def test_result_is_strict_json(comparison):
    again = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert again["methods"] == list(METHODS)
    assert len(again["tests"]["external_organs"]) == 10


def test_methods_keep_their_order_and_a_seed_may_not_come_twice():
    runs = made_up_runs(("marginal", "plain"))
    assert list(by_method(runs)) == ["marginal", "plain"]
    with pytest.raises(ConfigError, match=r"plain: got \[0, 1, 2, 0\]"):
        compare([*runs, replace(runs[1])], title="t")
    with pytest.raises(ConfigError, match="at least one finished run"):
        compare([], title="t")
