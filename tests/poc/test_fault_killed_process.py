"""A site's job process is killed in the middle of a round, as when memory runs out."""

from __future__ import annotations

import pytest
from fault_work import ROUNDS, assert_same_bits, events, results, updates, wait_until_training, weights, whole_job
from tiny_work import SITES

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
EVERY_UPDATE = {(number, site) for number in range(1, ROUNDS + 1) for site in SITES}


def test_the_process_comes_back_and_the_model_is_the_one_of_a_run_without_the_kill(consortium, uninterrupted, tmp_path):
    job = consortium.submit(whole_job(tmp_path / "job", min_sites=2))
    wait_until_training(consortium, job, "liver", 2)
    (killed,) = consortium.kill("liver", "job")
    assert not [e for e in consortium.events(job) if e["event"] == "update" and (e["round"], e["site"]) == (2, "liver")]
    consortium.wait_for(lambda: set(consortium.job_processes("liver")) - {killed}, 30, "a new process of liver")
    assert consortium.wait(job) == "FINISHED:COMPLETED"
    done = results(consortium, job)
    assert updates(done) == EVERY_UPDATE
    assert not events(done, "panic")
    assert_same_bits(weights(done), uninterrupted)
    log = consortium.site_log("liver")
    assert "the job's process was killed by signal 9 (9 may mean that memory ran out): restart 1 of 2" in log
