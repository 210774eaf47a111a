"""Reports and comparisons of many sites: figures keep their axes, sites keep apart, work grows with what there is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from made_up_runs import made_up_run, made_up_runs

from cost_counter import calls
from fedpartial.evaluation import figures
from fedpartial.evaluation.cautions import find_cautions
from fedpartial.evaluation.compared_run import ComparedRun
from fedpartial.evaluation.comparison import compare
from fedpartial.evaluation.patients import paired_values
from fedpartial.presets import ABDOMEN

MANY = 64


def of_many_sites(run: ComparedRun, sites: int) -> ComparedRun:
    """The run with copies of its liver site in place of its sites, each of which annotates other classes as well."""
    report, names = run.report, [f"site{i:02d}" for i in range(sites)]
    rounds = [{**r, "sites": dict.fromkeys(names, r["sites"]["liver"])} for r in report["rounds"]]
    cases = {name: report["cases"]["liver"] for name in names}
    given = {place: found for place, found in report["cases"].items() if place not in report["sites"]}
    summaries = dict.fromkeys(names, report["sites"]["liver"])
    return replace(run, report={**report, "sites": summaries, "cases": {**cases, **given}, "rounds": rounds})


@pytest.mark.parametrize("draw", [figures.validation_curves, figures.loss_curves, figures.bytes_by_round])
def test_a_long_legend_leaves_the_axes_their_size(draw):
    """Where the axes collapse matplotlib warns, and a warning is an error here."""
    few, many = (draw(of_many_sites(made_up_run("plain", 0), sites).report).decode() for sites in (4, MANY))
    assert many.count("site63") == 1
    assert _height(many) > 1.5 * _height(few)
    assert _height(draw(of_many_sites(made_up_run("plain", 0), 2).report).decode()) == _height(few)


def _height(svg: str) -> float:
    return float(svg.split('height="')[1].split("pt")[0])


def test_64_sites_differ_in_colour_or_marker():
    looks = {(figures._site_colour(i), figures._site_marker(i)) for i in range(MANY)}
    assert len(looks) == MANY


def test_traffic_is_one_artist_for_each_site_and_way():
    svg = figures.bytes_by_round(of_many_sites(made_up_run("plain", 0), 3).report).decode()
    assert svg.count('id="PolyCollection_') == 3 * 2
    assert "patch_5" not in svg.split("legend")[0]


def test_a_comparison_does_not_grow_faster_than_its_sites():
    def runs(sites: int) -> list[ComparedRun]:
        return [of_many_sites(run, sites) for run in made_up_runs(("plain", "marginal"), (0, 1))]

    few, many = runs(8), runs(MANY)
    compare(few, title="warm")  # what is imported and cached once does not count
    assert calls(lambda: compare(many, title="")) <= 1.2 * MANY / 8 * calls(lambda: compare(few, title=""))


def test_cautions_and_pairs_do_not_grow_faster_than_the_sites():
    few, many = (of_many_sites(made_up_run("plain", 0), sites) for sites in (8, MANY))
    for work in (lambda run: find_cautions(run.report, ABDOMEN), lambda run: paired_values([run], [run], "sites")):
        assert calls(partial(work, many)) <= 1.2 * MANY / 8 * calls(partial(work, few))
