"""What a comparison learns of a run beside its report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_hospitals import SITES

from fedpartial.cli.compare_check import ComparisonRun
from fedpartial.cli.compare_pages import adapt_steps, compared
from fedpartial.cli.prepare import Options, check


@pytest.fixture
def run_of(tmp_path, job, edit):
    """``run_of(merge_lesions=True)``: the copied job as a run, with these arguments of its controller."""

    def checked(**arguments) -> ComparisonRun:
        edit("config_fed_server.json", lambda config: config["components"][0]["args"].update(arguments))
        options = Options(job=str(job), sites=SITES, out=tmp_path / "out")
        return ComparisonRun(name="a", seed=3, checked=check(options, tmp_path, lambda given, _: given.out), report={})

    return checked


def test_the_length_of_a_run_comes_from_its_job(run_of):
    run = run_of()
    found = compared(run)
    assert (found.method, found.seed, found.local_steps) == ("a", 3, run.checked.plan.local_steps)
    assert found.finetune_steps == 0


@pytest.mark.parametrize("merge_lesions", [True, False])
def test_whether_organs_contain_their_lesions_comes_from_its_job(run_of, merge_lesions):
    assert compared(run_of(merge_lesions=merge_lesions)).merged == merge_lesions


@pytest.mark.parametrize("steps", [12, "{adapt_steps}"])
def test_the_steps_of_site_adaptation_come_from_its_job(run_of, steps):
    workflow = {"id": "a", "path": "fedpartial.flare.site_adaptation.SiteAdaptation", "args": {"steps": steps}}
    job = run_of().checked.job
    changed = replace(job, server={**job.server, "adapt_steps": 12, "workflows": [*job.server["workflows"], workflow]})
    assert adapt_steps(job) == 0
    assert adapt_steps(changed) == 12
