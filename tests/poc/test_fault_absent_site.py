"""A site goes in the middle of a round and never comes back."""

from __future__ import annotations

import pytest
from fault_work import (
    events,
    federation,
    finished_rounds,
    launch_policy,
    read_report,
    results,
    updates,
    wait_until_training,
    whole_job,
)

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
WITHOUT_THE_LAST = {(1, "liver"), (1, "spleen"), (2, "spleen")}


@pytest.fixture(scope="module")
def without_restarts(tmp_path_factory: pytest.TempPathFactory):
    """Site liver does not start a killed job process again."""
    with federation(tmp_path_factory.mktemp("absent"), absent=("liver",)) as running:
        launch_policy(running, "liver", max_restarts=0)
        running.start("liver")
        yield running


def test_with_too_few_sites_the_job_ends_by_name_and_keeps_its_finished_rounds(without_restarts, tmp_path):
    job = without_restarts.submit(whole_job(tmp_path / "job", min_sites=2))
    wait_until_training(without_restarts, job, "liver", 2)
    without_restarts.kill("liver", "job")
    assert without_restarts.wait(job) == "FINISHED:EXECUTION_EXCEPTION"
    left = results(without_restarts, job)
    reason = "round 2 needs 2 update(s) and cannot get them. liver: gone."
    assert events(left, "panic")[0]["reason"].startswith(reason)
    assert "the job's process was killed by signal 9 again: given up" in without_restarts.site_log("liver")
    assert finished_rounds(left) == 1
    assert updates(left) <= WITHOUT_THE_LAST


def test_with_enough_sites_the_round_goes_on_and_the_report_names_the_missing_one(without_restarts, tmp_path):
    """Its machine is off: also the final evaluation, which no report of the dead site reaches, must not wait for it."""
    job = without_restarts.submit(whole_job(tmp_path / "job", min_sites=1))
    wait_until_training(without_restarts, job, "liver", 2)
    for process in ("parent", "job"):
        without_restarts.kill("liver", process)
    assert without_restarts.wait(job) == "FINISHED:COMPLETED"
    done = results(without_restarts, job)
    assert [event["site"] for event in events(done, "gone")] == ["liver"]
    assert updates(done) == WITHOUT_THE_LAST
    report = read_report(done)
    assert "liver gave no scores: its job process is gone" in report["notes"]
    assert list(report["sites"]) == ["spleen"]
    assert "site liver is gone: nothing was heard of its job process" in without_restarts.server_log()
