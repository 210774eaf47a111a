"""Comparisons of FL-PSMOS: adapted models as methods of their own, fully and partially annotated cases apart."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from made_up_adaptation import GAINS, JITTER, LEVELS, SITES, SPACE, adapted_run
from made_up_runs import made_up_runs
from rich.console import Console

from fedpartial.cli.compare_pages import print_table
from fedpartial.errors import ConfigError
from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.comparison import Comparison, compare
from fedpartial.evaluation.comparison_figures import macro_means, validation_by_steps
from fedpartial.evaluation.comparison_files import write_comparison
from fedpartial.evaluation.comparison_tables import cost_table, score_table

SEEDS = (0, 1)
ADAPTED = [f"federated, adapted {way.replace('_', ' ')}" for way in GAINS]
SETS = ["external", "sites", "sites_full", "sites_partial"]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare([adapted_run(m, seed) for seed in SEEDS for m in ("federated", "central")], title="PSMOS")


def dice(run: ComparedRun, sites: list[str], name: str) -> float:
    cases = [case for site in sites for case in run.report["cases"][site]]
    return float(np.mean([case["dice"][name] for case in cases if name in case["dice"]]))


def test_every_way_is_a_method_after_its_run(comparison):
    assert list(comparison.methods) == ["federated", *ADAPTED, "central"]
    assert list(comparison.adapted) == ADAPTED
    sites = comparison.scores["sites"]["dice"]
    for name, gain in zip(ADAPTED, GAINS.values(), strict=True):
        difference = sites[name]["macro"]["mean"] - sites["federated"]["macro"]["mean"]
        assert difference == pytest.approx(gain, abs=2 * JITTER)
        assert sites[name]["macro"]["seeds"] == len(SEEDS)


def test_adapted_models_have_no_external_scores_and_no_row_there(comparison):
    assert [row[0].text for row in score_table(comparison, "external", "dice").rows] == [
        "federated",
        "central",
        "cases",
    ]
    assert len(score_table(comparison, "sites", "dice").rows) == len(comparison.methods) + 1
    assert not any("different classes" in sentence for sentence in comparison.cautions)


def test_adapted_models_are_tested_at_the_sites(comparison):
    test = next(t for t in comparison.tests["sites"] if (t.a, t.b) == ("federated", ADAPTED[1]))
    assert (test.n, test.difference) == (
        sum(n for _, n in SITES.values()),
        pytest.approx(-GAINS["encoder_frozen"], abs=2 * JITTER),
    )
    assert not {t.b for t in comparison.tests["external"]} & set(ADAPTED)
    pooled = next(t for t in comparison.tests["sites"] if (t.a, t.b) == (ADAPTED[0], "central"))
    assert pooled.n == test.n, "the pool's cases are the same patients"


def test_steps_and_curves_of_adapted_models(comparison):
    steps = {method: cost["steps"] for method, cost in comparison.costs.items()}
    assert steps["federated"] == steps["central"] == [20]
    assert steps[ADAPTED[0]] == [40]
    assert [name for name, points in comparison.curves.items() if points] == ["federated", "central"]
    assert "2 \N{MULTIPLICATION SIGN} 10 + 20" in [row[2].text for row in cost_table(comparison).rows]
    assert f">{ADAPTED[0]}<" not in validation_by_steps(comparison.curves).decode()
    assert f">{ADAPTED[0]}<" in macro_means(comparison.scores, comparison.methods).decode()


def test_fully_and_partially_annotated_cases_have_tables_of_their_own(comparison):
    assert list(comparison.scores) == SETS
    runs = {method: [adapted_run(method, seed) for seed in SEEDS] for method in ("federated", "central")}
    full, partial = (comparison.scores[which] for which in SETS[2:])
    assert (full["classes"], partial["classes"]) == (list(SPACE.classes), ["liver", "spleen"])
    for metric, of in (("dice", lambda d: d), ("hd95_mm", lambda d: 100 * (1 - d))):
        found = full[metric]["federated"]["classes"]["liver"]
        assert found["mean"] == pytest.approx(np.mean([of(dice(run, ["full"], "liver")) for run in runs["federated"]]))
        assert found["n"] == SITES["full"][1]
        found = partial[metric]["federated"]["classes"]["spleen"]
        expected = np.mean([of(dice(run, ["spleen"], "spleen")) for run in runs["federated"]])
        assert (found["mean"], found["n"]) == (pytest.approx(expected), SITES["spleen"][1])


def test_a_pool_is_divided_case_by_case(comparison):
    for which, n in (("sites_full", 3), ("sites_partial", 4)):
        central = comparison.scores[which]["dice"]["central"]["classes"]["liver"]
        gain = central["mean"] - comparison.scores[which]["dice"]["federated"]["classes"]["liver"]["mean"]
        assert (central["n"], gain) == (n, pytest.approx(LEVELS["central"] - LEVELS["federated"], abs=2 * JITTER))
    assert {t.n for t in comparison.tests["sites_full"]} == {3}
    assert {t.n for t in comparison.tests["sites_partial"]} == {9}


def test_one_kind_of_cases_alone_is_no_set_of_its_own():
    assert not set(SETS[2:]) & set(compare(made_up_runs(("plain", "central"), (0,)), title="t").scores)


def test_a_site_that_sends_summaries_counts_by_its_classes():
    run = adapted_run("federated")
    kept = replace(run, report={**run.report, "cases": {}, "adapted_cases": {}})
    found, usual = (compare([r], title="t").scores for r in (kept, run))
    for which in SETS[2:]:
        for method, values in usual[which]["dice"].items():
            assert found[which]["dice"][method]["macro"]["mean"] == pytest.approx(values["macro"]["mean"])


def test_sites_that_wait_for_the_end_of_pretraining_are_not_absent(comparison):
    assert not any("absent" in sentence for sentence in comparison.cautions)
    late = compare([adapted_run("federated", pretrain_rounds=0)], title="t")
    assert any("absent from rounds (2 times)" in sentence for sentence in late.cautions)


def test_a_run_of_an_earlier_version_has_no_adapted_models():
    run = adapted_run("central")
    for name in ("adapted_sites", "adapted_cases", "pretrain_rounds"):
        del run.report[name]
    assert compare([run], title="t").methods == ("central",)


def test_a_run_without_rounds_takes_part(tmp_path):
    runs = [adapted_run("federated", rounds=[], pretrain_rounds=0), adapted_run("central")]
    found = compare(runs, title="t")
    assert found.costs["federated"]["bytes_per_round"] is None
    assert found.costs[ADAPTED[0]]["steps"] == [20]
    write_comparison(found, tmp_path)


def test_a_method_may_not_be_called_like_an_adapted_one():
    runs = [adapted_run("federated"), replace(adapted_run("central"), method=ADAPTED[0])]
    with pytest.raises(ConfigError, match="adapted all"):
        compare(runs, title="t")


def test_page_files_and_console_take_all_of_it(comparison, tmp_path):
    paths = write_comparison(comparison, tmp_path)
    page, text = (path.read_text(encoding="utf-8") for path in (paths.html, paths.md))
    for title in ("Sites, fully annotated", "Sites, partially annotated"):
        assert f"<h3>{title}</h3>" in page
        assert f"<dt>{title}</dt>" in page
        assert f"## Scores: {title[0].lower()}{title[1:]}" in text
    assert "<dt>Adapted models</dt>" in page
    assert "5 methods · 4 runs" in page, "adapted models are of the same run"
    assert any(line.startswith("sites_full,federated,(mean),hd95_mm,") for line in paths.csv.read_text().splitlines())
    console = Console(width=80, file=io.StringIO())
    print_table(comparison, console)
    text = console.file.getvalue()
    assert "…" not in text
    assert "time of" in text, "nothing is cut off at the right"
