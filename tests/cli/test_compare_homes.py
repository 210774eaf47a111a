"""Homes of a comparison: one for each row and seed, or shared by the stages of one federation, which go in order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.cli.compare_homes import check_homes, earlier_stages, failed_stage, open_home
from fedpartial.cli.compare_plan import PlannedMethod
from fedpartial.cli.refused import Refused


@pytest.fixture
def stages(tmp_path):
    """``stages("first", None, ...)``: runs of one home with these reports."""

    def make(*reports, home="stages") -> list[ComparisonRun]:
        return [
            ComparisonRun(
                name=f"stage {number}",
                seed=0,
                checked=SimpleNamespace(
                    options=SimpleNamespace(home=tmp_path / "homes" / home), out=tmp_path / f"runs/stage-{number}"
                ),
                report=report,
            )
            for number, report in enumerate(reports, start=1)
        ]

    return make


@pytest.fixture
def home(tmp_path):
    return tmp_path / "homes/stages"


def test_a_row_names_its_home_or_has_one_of_its_own():
    assert PlannedMethod(name="stage 1", job="j", home="five stages").home_folder == "five-stages"
    assert PlannedMethod(name="stage 1", job="j").home_folder == "stage-1"


def test_only_runs_of_the_same_home_are_earlier_stages(stages):
    runs = [*stages(None, None), *stages(None, home="other"), *stages(None)]
    assert earlier_stages(runs[3], runs) == runs[:2]
    assert earlier_stages(runs[2], runs) == []


def test_the_first_stage_finds_an_empty_home_and_the_next_what_it_left(stages, home):
    runs = stages(None, None)
    home.mkdir(parents=True)
    (home / "of an earlier attempt").touch()
    open_home(runs[0], runs)
    assert list(home.iterdir()) == []
    (home / "store").touch()
    open_home(runs[1], runs)
    assert [path.name for path in home.iterdir()] == ["store"]


def test_stages_go_on_where_they_ended(stages, home):
    home.mkdir(parents=True)
    check_homes(stages({"done": 1}, {"done": 1}, None, None))
    check_homes(stages({"done": 1}, {"done": 1}))
    check_homes(stages(None, None))


def test_a_finished_stage_after_one_that_has_to_run_again_is_refused(stages, home):
    home.mkdir(parents=True)
    with pytest.raises(Refused, match="no finished run after stage 1, seed 0"):
        check_homes(stages(None, {"done": 1}))


def test_a_home_that_is_gone_is_refused(stages):
    with pytest.raises(Refused, match="what stage 1, seed 0 has left there for stage 2, seed 0"):
        check_homes(stages({"done": 1}, None))
    check_homes(stages({"done": 1}, {"done": 1}))  # nothing has to run, so nobody asks for it


def test_a_stage_after_a_failed_one_is_known(stages):
    runs = stages(None, None)
    assert failed_stage(runs[1], runs) is None
    runs[0].end(None, ("no report",), 1.0)
    assert failed_stage(runs[1], runs) is runs[0]
    assert failed_stage(runs[0], runs) is None
