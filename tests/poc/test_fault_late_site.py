"""A site comes when the job already runs: it was off, or the parent process it registered with died."""

from __future__ import annotations

import pytest
from fault_work import events, federation, read_report, results, resume, updates, wait_until_training, whole_job
from real_federation import SERVER

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory):
    """Participants as operators start them, with start.sh; site spleen is off."""
    with federation(tmp_path_factory.mktemp("late"), absent=("spleen",), restart=True) as running:
        yield running


def test_a_late_site_is_not_asked_but_takes_part_after_abort_and_resume(daemons, tmp_path):
    job = daemons.submit(whole_job(tmp_path / "job"))
    daemons.wait_for_event(job, "plan", sites=1)
    daemons.start("spleen")
    wait_until_training(daemons, job, "liver", 2)
    assert not daemons.job_processes("spleen")
    daemons.abort(job)
    assert daemons.wait(job) == "FINISHED:ABORTED"
    left = results(daemons, job)
    assert updates(left) == {(1, "liver")}
    assert job not in daemons.site_log("spleen")
    again = daemons.submit(resume(left, tmp_path / "again"))
    assert daemons.wait(again) == "FINISHED:COMPLETED"
    done = results(daemons, again)
    assert updates(done) == {(2, "liver"), (2, "spleen")}
    assert [(event["site"], event["state"]) for event in events(done, "optimizer")] == [("spleen", "a fresh optimiser")]


def test_a_parent_that_dies_is_started_again_and_the_round_goes_on_without_its_site(daemons, tmp_path):
    """FLARE counts the job as ABNORMAL, because the new parent knows nothing of it; model and report are there."""
    job = daemons.submit(whole_job(tmp_path / "job"))
    wait_until_training(daemons, job, "spleen", 2)
    daemons.wait_for(lambda: (1, "spleen") in updates(daemons.kit(SERVER) / job / "app_server"), 10, "an update")
    (old,) = daemons.kill("spleen", "parent")
    daemons.wait_for(lambda: set(daemons.parents("spleen")) - {old}, 60, "a new parent process")
    daemons.wait_for(lambda: not daemons.job_processes("spleen"), 60, "spleen's job process ends")
    assert daemons.wait(job) == "FINISHED:ABNORMAL"
    done = results(daemons, job)
    assert updates(done) == {(1, "liver"), (1, "spleen"), (2, "liver")}
    assert [event["site"] for event in events(done, "gone")] == ["spleen"]
    assert "spleen gave no scores: its job process is gone" in read_report(done)["notes"]
