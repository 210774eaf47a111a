"""The tables of published numbers beside ours: every number stands in the row and the column it belongs to."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_adaptation import GAINS, adapted_run
from made_up_runs import made_up_runs, with_heads

import fedpartial
from fedpartial.evaluation.comparison import compare
from fedpartial.evaluation.formats import UNDEFINED, mean_sd

BENCHMARKS = Path(fedpartial.__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """``script("segviz")``: the module benchmarks/segviz_published.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: importlib.import_module(f"{name}_published")


def planned(name: str, table: str = "table") -> list[str]:
    plan = json.loads((BENCHMARKS / "plans" / f"{name}_{table}.json").read_text(encoding="utf-8"))
    return [run.get("name", run["job"]) for run in plan["runs"]]


def test_every_published_row_is_in_the_plan(script):
    assert set(script("condistfl").PUBLISHED) == set(planned("condistfl"))
    segviz = script("segviz")
    assert {*segviz.EXTERNAL, *segviz.AT_SITES} <= set(planned("segviz"))
    own = {name for name in planned("segviz") if name.startswith("Conventional, Dice only")}
    assert len(own) == 3
    assert set(planned("segviz")) - set(segviz.EXTERNAL) == {"FedBN, 2 nodes", "FedBN, 3 nodes"} | own


def test_fewer_nodes_have_fewer_organs(script):
    for method, papers in script("segviz").EXTERNAL.items():
        nodes = int(method.removesuffix(" nodes").rsplit(" ", 1)[1])
        assert {len(dice) for dice in papers.values()} == {nodes}, method


def comparison(names: dict[str, str], *, heads: bool) -> dict:
    """A made-up comparison; ``names``: made-up method -> name in the plan."""
    runs = [with_heads(run) if heads else run for run in made_up_runs(tuple(names))]
    content = compare(runs, title="t").to_json()
    text = json.dumps(content)
    for method, name in names.items():
        text = text.replace(f'"{method}"', f'"{name}"')
    return json.loads(text)


def test_segviz_rows_have_the_papers_number_beside_ours(script):
    names = {"plain": "Single-organ models, 4 nodes", "marginal": "FedAvg, 2 nodes", "distilled": "FedBN, 2 nodes"}
    given = comparison(names, heads=True)
    segviz = script("segviz")
    found = list(segviz.rows(given, "external_heads", segviz.EXTERNAL))
    assert [row[:2] for row in found] == [
        ("Single-organ models, 4 nodes", "P1"),
        ("Single-organ models, 4 nodes", "P2"),
        ("FedAvg, 2 nodes", "P1"),
        ("FedBN, 2 nodes", UNDEFINED),
    ]
    classes = given["scores"]["external_heads"]["dice"]["FedAvg, 2 nodes"]["classes"]
    shown = [mean_sd(classes[name]) for name in ("liver", "spleen", "kidney")]
    assert found[2][2:] == ("0.90", shown[0], "0.84", shown[1], UNDEFINED, UNDEFINED, UNDEFINED, shown[2])
    assert found[3][2] == UNDEFINED
    assert len(segviz.HEAD) == len(found[0])


def test_segviz_tables_are_those_of_the_sets_there_are(script):
    names = {"plain": "Central, 4 nodes"}
    assert script("segviz").tables(comparison(names, heads=True)).count("| method |") == 3
    assert script("segviz").tables(comparison(names, heads=False)).count("| method |") == 2


def test_condistfl_as_a_command(tmp_path):
    given = comparison({"plain": "fedavg_plain", "union": "condistfl_union"}, heads=False)
    (tmp_path / "comparison.json").write_text(json.dumps(given))
    command = [sys.executable, str(BENCHMARKS / "condistfl_published.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    organs = mean_sd(given["scores"]["external_organs"]["dice"]["condistfl_union"]["macro"])
    assert lines[3] == f"| ConDistFL (Union) | {UNDEFINED} | {UNDEFINED} | 0.8674 | {organs} | {UNDEFINED} |"
    assert lines[2].startswith("| FedAvg* | 0.3934 | 0.")


# --- FL-PSMOS ----------------------------------------------------------------------------------------------


def psmos(names: dict[str, str], methods: tuple[str, ...] = ("federated", "central")) -> dict:
    """A made-up comparison of two runs; ``names``: made-up method -> name in the plan."""
    runs = [replace(adapted_run(method), method=names[method]) for method in methods]
    return compare(runs, title="t").to_json()


def test_every_row_of_ours_in_the_psmos_tables_is_in_a_plan(script):
    module = script("psmos")
    peers = {"PaNN", "PIPO", "MargExc"}
    adapted = {f"{module.ADAPTED}{way.replace('_', ' ')}" for way in GAINS}
    assert module.ADAPTED.removesuffix(", adapted ") in planned("psmos")
    assert set(module.TABLE) - peers - adapted <= set(planned("psmos"))
    assert adapted <= set(module.TABLE)
    assert set(module.LOSSES) <= set(planned("psmos", "losses"))
    assert list(module.ROUNDS) == planned("psmos", "rounds")


def test_psmos_rows_have_dice_and_distance_of_both_kinds_of_sites(script):
    module = script("psmos")
    given = psmos({"federated": "Federated", "central": "Central"})
    lines = {row[0]: row[1:] for row in module.rows(given, module.TABLE)}
    assert list(lines) == list(module.TABLE), "the paper's order"
    name = f"{module.ADAPTED}encoder frozen"
    full, partial, both = (
        f"{given['scores'][which]['dice'][name]['macro']['mean']:.3f} / "
        f"{given['scores'][which]['hd95_mm'][name]['macro']['mean']:.1f}"
        for which in module.SETS
    )
    assert lines[name] == ("0.929 / 2.31", full, "0.928 / 6.44", partial, "0.929 / 4.38", both)
    assert lines["PaNN"] == (UNDEFINED,) * 4 + ("0.906 / 5.29", UNDEFINED)
    assert lines["Federated"][0] == "0.924 / 2.54"
    assert len(module.HEAD) == 1 + len(lines[name])


def test_psmos_knows_its_three_tables_by_their_methods(script):
    module = script("psmos")
    rounds = module.table(psmos({"central": "Central"}, ("central",)))
    assert rounds.startswith("| method |"), "central training alone is no sweep"
    runs = [replace(adapted_run("central"), method=name) for name in ("10 steps x 16 rounds", "Central")]
    sweep = module.table(compare(runs, title="t").to_json()).splitlines()
    assert sweep[2].startswith("| 10 steps x 16 rounds | 50 x 2000 | 0.924 / 4.80 | 0.8")
    assert sweep[3].endswith("| 75 | 20.0 s |")
    losses = module.table(psmos({"central": "Dice + CE + Lovász"}, ("central",))).splitlines()
    assert losses[2].startswith("| Dice + CE + Lovász | 0.933 / 1.78 | 0.8")
    assert len(losses) == 3
