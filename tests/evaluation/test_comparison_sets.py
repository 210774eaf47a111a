"""Which sets a comparison shows, models with heads beside models without, and runs with other sites than the rest."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import ALL, EXTERNAL_CASES, SITES, at_sites, dice_of, made_up_run, made_up_runs, with_heads
from rich.console import Console

from fedpartial import presets
from fedpartial.cli.compare_pages import print_table
from fedpartial.evaluation.comparison import Comparison, compare
from fedpartial.evaluation.comparison_costs import costs
from fedpartial.evaluation.comparison_figures import macro_means
from fedpartial.evaluation.comparison_files import write_comparison
from fedpartial.evaluation.comparison_scores import best
from fedpartial.evaluation.comparison_tables import cost_table, score_table
from fedpartial.evaluation.formats import UNDEFINED
from fedpartial.presets import PHANTOM

SEEDS = (0, 1, 2)
TWO = ("liver", "spleen")
GAIN = 0.05


@pytest.fixture(scope="module")
def heads() -> Comparison:
    """ "distilled" has heads, "plain" and "union" have none."""
    runs = made_up_runs(("plain", "distilled", "union"))
    return compare([with_heads(run, GAIN) if run.method == "distilled" else run for run in runs], title="Heads")


@pytest.fixture(scope="module")
def nodes() -> Comparison:
    """ "plain" has two of the three sites, "central" has all cases."""
    runs = made_up_runs(("plain", "marginal", "distilled", "central"))
    return compare([at_sites(run, TWO) if run.method == "plain" else run for run in runs], title="Nodes")


# --- heads -------------------------------------------------------------------------------------------------


def test_a_run_without_heads_counts_with_its_label_map_among_those_with_heads(heads):
    assert list(heads.scores) == ["external", "external_organs", "external_heads", "sites"]
    found, fused = heads.scores["external_heads"]["dice"], heads.scores["external"]["dice"]
    assert found["plain"] == fused["plain"]
    assert found["union"] == fused["union"]
    assert found["distilled"]["macro"]["mean"] == pytest.approx(fused["distilled"]["macro"]["mean"] + GAIN)


def test_tests_use_the_masks_of_the_heads(heads):
    (fused,), (own,) = heads.tests["external"], heads.tests["external_heads"]
    assert (own.a, own.b, own.n) == ("plain", "distilled", EXTERNAL_CASES)
    assert own.difference == pytest.approx(fused.difference - GAIN)
    assert [t.n for t in heads.tests["all"]] == [EXTERNAL_CASES + sum(n for _, n in SITES.values())], "no case twice"


def test_without_any_heads_the_set_is_not_shown():
    assert "external_heads" not in compare(made_up_runs(("plain", "marginal"), (0,)), title="t").scores


def test_a_report_of_an_earlier_version_has_no_heads():
    runs = [made_up_run("plain", 0), with_heads(made_up_run("marginal", 0))]
    del runs[0].report["external_heads"]
    found = compare(runs, title="t").scores["external_heads"]["dice"]
    assert found["plain"]["num_classes"] == len(ALL)


def test_lesions_merged_are_shown_only_beside_runs_that_keep_them_apart():
    assert "external_organs" not in compare(made_up_runs(("union",), (0,)), title="t").scores


def test_every_shown_set_has_its_heading_and_its_definition_on_the_page(heads, tmp_path):
    page = write_comparison(heads, tmp_path).html.read_text(encoding="utf-8")
    definitions = page[page.index('id="definitions"') :]
    title = "External set, each class from its own head"
    assert f"<h3>{title}</h3>" in page
    assert f"<dt>{title}</dt>" in definitions
    assert ">external, single heads<" in page, "in the legend of the figure"


# --- other sites -------------------------------------------------------------------------------------------


def test_the_mean_of_a_run_with_fewer_sites_is_over_its_own_classes(nodes):
    plain = nodes.scores["external"]["dice"]["plain"]
    per_seed = [np.mean([dice_of("plain", s, f"external {i}", n) for i in range(4) for n in TWO]) for s in SEEDS]
    assert set(plain["classes"]) == set(TWO)
    assert plain["macro"]["mean"] == pytest.approx(np.mean(per_seed))
    assert plain["num_classes"] == 2
    assert nodes.scores["sites"]["dice"]["plain"]["num_classes"] == 2
    assert nodes.scores["external"]["dice"]["marginal"]["num_classes"] == len(ALL)


def test_a_test_is_over_the_classes_that_both_runs_have(nodes):
    test = next(t for t in nodes.tests["external"] if (t.a, t.b) == ("plain", "distilled"))
    means = {
        m: [dice_of(m, s, f"external {i}", n) for s in SEEDS for i in range(4) for n in TWO] for m in (test.a, test.b)
    }
    assert (test.n, test.seeds) == (EXTERNAL_CASES, 3)
    assert test.difference == pytest.approx(np.mean(means["plain"]) - np.mean(means["distilled"]))
    at_both = next(t for t in nodes.tests["sites"] if (t.a, t.b) == ("plain", "central"))
    assert at_both.n == sum(SITES[site][1] for site in TWO)


def test_the_tables_say_how_many_classes_a_mean_has_and_its_row_is_not_best(nodes):
    table = score_table(nodes, "external", "dice")
    plain = table.rows[0]
    assert plain[2].text.endswith("(2 of 4)")
    assert plain[5].text == plain[6].text == UNDEFINED
    assert "of" not in table.rows[1][2].text
    scores = {**nodes.scores["external"]["dice"]}
    scores["plain"] = {**scores["plain"], "macro": {**scores["plain"]["macro"], "mean": 0.999}}
    assert best({**nodes.scores["external"], "dice": scores}, "dice", None) == {"central"}
    assert best(nodes.scores["external"], "dice", "liver"), "a class by itself compares"


def test_rows_with_other_classes_are_named_once(nodes):
    (caution,) = [sentence for sentence in nodes.cautions if "different classes" in sentence]
    assert caution == (
        "Means of rows with different classes are not comparable, nor are their validation curves: "
        "liver, spleen (plain); liver, spleen, kidney, kidney tumor (marginal; distilled; central)."
    )
    assert not any("not the same patients" in sentence for sentence in nodes.cautions)


def test_patients_are_checked_also_where_the_first_run_has_fewer_sites():
    runs = [at_sites(made_up_run("plain", 0), TWO), made_up_run("marginal", 0), made_up_run("distilled", 0)]
    runs[2].report["cases"]["kidney"][2]["status"]["kidney_tumor"] = "scored"
    found = [sentence for sentence in compare(runs, title="t").cautions if "not the same patients" in sentence]
    assert [sentence.startswith("The cases (kidney) of distilled, seed 0") for sentence in found] == [True]


def test_runs_without_a_common_class_have_no_test():
    runs = [at_sites(made_up_run("plain", 0), ("kidney",)), at_sites(made_up_run("marginal", 0), ("spleen",))]
    found = compare(runs, title="t")
    assert found.tests == {}
    assert [found.scores["external"]["dice"][m]["num_classes"] for m in found.methods] == [2, 1]
    assert best(found.scores["external"], "dice", None) == set()
    assert macro_means(found.scores, found.methods) is None


def test_sites_without_lesions_are_not_taken_for_merged_lesions():
    runs = [at_sites(made_up_run("plain", seed), TWO) for seed in SEEDS]
    found = compare([*runs, *made_up_runs(("marginal",))], title="t")
    assert found.scores["external"]["merged"] == []
    assert [(t.a, t.b) for t in found.tests["external"]] == [("plain", "marginal")]


def test_a_run_with_fewer_sites_may_have_no_lesion_classes_at_all(monkeypatch):
    """A preset whose classes are organs only, first in the table, beside one with lesions."""
    organs_only = replace(PHANTOM, name="organs_only", label_space=PHANTOM.label_space.merged)
    monkeypatch.setitem(presets.PRESETS, "organs_only", organs_only)
    runs = [at_sites(made_up_run("union", 0, preset="organs_only"), sites) for sites in (("spleen",), TWO)]
    runs = [replace(run, method=f"{len(run.classes)} organs") for run in runs]
    found = compare([*runs, made_up_run("plain", 0)], title="t")
    assert found.scores["external"]["classes"] == list(ALL)
    assert found.scores["external"]["merged"] == ["1 organs", "2 organs"]
    assert [(t.a, t.b) for t in found.tests["external"]] == [("1 organs", "2 organs")]


def test_the_page_and_every_file_take_rows_with_other_classes(nodes, tmp_path):
    paths = write_comparison(nodes, tmp_path)
    assert "(2 of 4)" in paths.md.read_text(encoding="utf-8")
    assert "(2 of 4)" in paths.html.read_text(encoding="utf-8")
    means = [line for line in paths.csv.read_text(encoding="utf-8").splitlines() if ",(mean),dice," in line]
    assert means[0].startswith("external,plain,")
    assert [line.rsplit(",", 1)[1] for line in means[:4]] == ["2", "4", "4", "4"]


def test_the_console_shows_every_set_in_80_columns(heads, nodes):
    for comparison, expected in ((heads, "heads"), (nodes, "(2 of 4)")):
        console = Console(width=80, file=io.StringIO())
        print_table(comparison, console)
        text = console.file.getvalue()
        assert expected in text
        assert "…" not in text
        assert all(re.search(rf"^ *{method} ", text, re.MULTILINE) for method in comparison.methods)


# --- fine-tuning -------------------------------------------------------------------------------------------


def test_steps_of_fine_tuning_count():
    tuned = [replace(run, finetune_steps=60) for run in made_up_runs(("marginal",))]
    assert costs(tuned)["steps"] == [2 * 10 + 60]
    found = compare([*made_up_runs(("plain",)), *tuned], title="t")
    assert any("and fine-tuning): 20 (plain); 80 (marginal)" in sentence for sentence in found.cautions)
    assert [row[2].text for row in cost_table(found).rows] == [
        "2 \N{MULTIPLICATION SIGN} 10",
        "2 \N{MULTIPLICATION SIGN} 10 + 60",
    ]
