"""Plan files and command lines of ``fedpartial compare``: what they mean, and everything that is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fedpartial
from fedpartial.cli.compare_check import check_runs, differences
from fedpartial.cli.compare_plan import ComparePlan, parse_seeds, plan_of_jobs, read_plan
from fedpartial.cli.prepare import Options
from fedpartial.cli.refused import Refused
from fedpartial.errors import ConfigError

PLANS = sorted((Path(fedpartial.__file__).parents[2] / "benchmarks" / "plans").glob("*.json"))


@pytest.fixture
def read(tmp_path):
    """``read({...}, rounds=2)``: the plan in a file with this content, with these options."""

    def write_and_read(content: object, **given) -> ComparePlan:
        path = tmp_path / "plan.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_plan(path, given)

    return write_and_read


def faults(call, *arguments, **options) -> list[str]:
    with pytest.raises(Refused) as refused:
        call(*arguments, **options)
    return [str(fault) for fault in refused.value.faults]


def test_a_plan_says_what_is_the_same_for_all_runs_and_what_differs(read):
    more = {"name": "condistfl, temperature 2", "job": "condistfl", "method": {"temperature": 2.0}, "rounds": 4}
    plan = read({"title": "T", "seeds": [5, 3], "rounds": 8, "local_steps": 30, "runs": [{"job": "fedavg"}, more]})
    assert (plan.title, plan.seeds, plan.preset) == ("T", (5, 3), None)
    first, second = plan.methods
    assert (first.name, first.job, first.method, first.rounds, first.local_steps) == ("fedavg", "fedavg", {}, 8, 30)
    assert (second.method, second.rounds, second.local_steps) == ({"temperature": 2.0}, 4, 30)
    assert second.folder == "condistfl-temperature-2"


def test_a_run_may_change_variables_of_the_server(read):
    runs = [{"job": "psmos", "pretrain_rounds": 0}, {"job": "fedmenu", "values": {"min_clients": 3}}, {"job": "fedavg"}]
    assert [m.server_values for m in read({"runs": runs}).methods] == [{"pretrain_rounds": 0}, {"min_clients": 3}, {}]


def test_variables_reach_the_copy_of_the_job(read, tmp_path):
    runs = [{"name": "three", "job": "fedavg", "values": {"min_clients": 3}}, {"job": "fedavg"}]
    three, four = check_runs(read({"seeds": [0], "runs": runs}), Options(job=""), tmp_path / "out", tmp_path)
    assert (three.checked.job.server["min_clients"], four.checked.job.server["min_clients"]) == (3, 4)
    (change,) = differences(four.checked.job.folder, three.checked.job.folder)
    assert "min_clients" in change


def test_variables_that_a_job_has_not_got_are_refused(read, tmp_path):
    """FedAvg without pretraining, and a key that no component refers to."""
    runs = [
        {"name": "a", "job": "fedavg", "pretrain_rounds": 2},
        {"name": "b", "job": "fedavg", "values": {"rouds": 1}},
    ]
    found = faults(check_runs, read({"seeds": [0], "runs": runs}), Options(job=""), tmp_path / "out", tmp_path)
    assert [("pretrain_rounds" in fault, "rouds" in fault) for fault in found] == [(True, False), (False, True)]
    assert all("no such key" in fault for fault in found)


@pytest.mark.parametrize(
    "run", [{"values": {"num_rounds": 2}}, {"values": {"seed": 2}}, {"values": ["a"]}, {"pretrain_rounds": -1}]
)
def test_variables_with_a_key_of_their_own_and_impossible_ones_are_refused(read, run):
    (fault,) = faults(read, {"runs": [{"job": "fedavg", **run}]})
    assert f"runs[0].{next(iter(run))}" in fault


def test_jobs_alone_make_a_plan(tmp_path):
    plan = plan_of_jobs(["fedavg", str(tmp_path / "condistfl")], {"rounds": 2, "preset": "phantom"})
    assert [(method.name, method.rounds) for method in plan.methods] == [("fedavg", 2), ("condistfl", 2)]
    assert (plan.seeds, plan.preset) == ((0, 1, 2), "phantom")
    assert plan.title == "Comparison of fedavg, condistfl"


def test_options_say_what_a_plan_leaves_open(read):
    plan = read({"rounds": 3, "runs": [{"job": "fedavg"}]}, seeds=(7,), local_steps=2, rounds=None)
    assert (plan.seeds, plan.methods[0].rounds, plan.methods[0].local_steps) == ((7,), 3, 2)


@pytest.mark.parametrize(("name", "value"), [("seeds", [0]), ("rounds", 2), ("local_steps", 2), ("preset", "phantom")])
def test_what_the_plan_says_may_not_be_an_option_as_well(read, name, value):
    (fault,) = faults(read, {name: value, "runs": [{"job": "fedavg"}]}, **{name: value})
    assert f"plan.json: {name}" in fault
    assert f"--{name.replace('_', '-')}" in fault


@pytest.mark.parametrize(("name", "value"), [("rounds", 4), ("local_steps", 4), ("sites", ["liver"])])
def test_what_a_run_of_the_plan_says_may_not_be_an_option_as_well(read, name, value):
    (fault,) = faults(read, {"runs": [{"job": "condistfl"}, {"job": "fedavg", name: value}]}, **{name: value})
    assert f"plan.json: runs[1].{name}: got 'a value here and --{name.replace('_', '-')}'" in fault


@pytest.mark.parametrize("runs", [3, {"rounds": 2}, ["rounds"], [["rounds"]], [None]])
def test_options_beside_runs_that_are_none_are_refused_for_the_runs_only(read, runs):
    (fault,) = faults(read, {"runs": runs}, rounds=2)
    assert "plan.json: runs" in fault
    assert "--rounds" not in fault


def test_every_fault_of_a_plan_is_found_in_one_pass(read):
    runs = [{"job": "fedavg", "rouds": 2}, {"name": "x"}, {"job": "fedavg", "rounds": 0, "method": [1]}, "fedavg"]
    runs += [{"job": "fedavg", "sites": sites} for sites in ("liver", [], ["liver", "liver"])]
    found = faults(read, {"title": " ", "seeds": [1, 1], "rounds": True, "runs": runs})
    places = [
        "title",
        "seeds",
        "rounds",
        "runs[0]: rouds",
        "runs[1]: job",
        "runs[2].rounds",
        "runs[2].method",
        "runs[3]",
        "runs[4].sites",
        "runs[5].sites",
        "runs[6].sites",
    ]
    assert len(found) == len(places)
    assert all(f"plan.json: {place}" in fault for place, fault in zip(places, found, strict=True)), found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "readable JSON"),
        ('{"runs": [], "runs": []}', "stands twice"),
        ({"runs": []}, "runs"),
        ({"runs": {"job": "fedavg"}}, "runs"),
        ({"seeds": [0]}, "runs: got 'nothing'"),
        ({"sites": ["liver"], "runs": [{"job": "fedavg"}]}, "sites: got 'an unknown key'"),
        ({"seeds": [-1], "runs": [{"job": "fedavg"}]}, "seeds"),
        ({"seeds": [], "runs": [{"job": "fedavg"}]}, "seeds"),
        ({"seeds": 3, "runs": [{"job": "fedavg"}]}, "seeds"),
    ],
)
def test_a_plan_that_is_none_is_refused(read, content, said):
    (fault,) = faults(read, content)
    assert said in fault


@pytest.mark.parametrize(
    "names", [("fedavg", "fedavg"), ("fedavg, 8 x 45", "fedavg 8 x 45"), ("FedAvg", "fedavg"), ("fedavg", "...")]
)
def test_two_methods_never_share_a_folder(read, names):
    (fault,) = faults(read, {"runs": [{"name": name, "job": "fedavg"} for name in names]})
    assert names[-1] in fault


def test_a_job_given_twice_is_refused():
    (fault,) = faults(plan_of_jobs, ["fedavg", "jobs/fedavg"], {})
    assert "JOB: names: got 'fedavg'" in fault


def test_seeds_are_numbers_with_commas():
    assert parse_seeds("4, 0") == (4, 0)
    assert parse_seeds(None) is None


@pytest.mark.parametrize("text", ["", "a", "1,", "1,1", "-1", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds 0,1,2"):
        parse_seeds(text)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_plans_of_this_project_can_run(path, tmp_path):
    plan = read_plan(path, {})
    runs = check_runs(replace(plan, seeds=plan.seeds[:1]), Options(job=""), tmp_path / "out", tmp_path)
    assert len(runs) == len(plan.methods) > 0
