"""The server's machine goes down in the middle of a job and comes back."""

from __future__ import annotations

import json
import shutil

import pytest
from fault_work import (
    ROUNDS,
    assert_same_bits,
    edit,
    finished_rounds,
    results,
    resume,
    updates,
    wait_until_training,
    weights,
    whole_job,
)
from real_federation import SERVER, Federation, RefusedError
from tiny_work import SITES

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]


def test_flare_does_not_continue_the_job_but_resume_does(consortium, uninterrupted, tmp_path):
    job = consortium.submit(whole_job(tmp_path / "job", min_sites=2))
    wait_until_training(consortium, job, "liver", 2)
    for process in ("parent", "job"):
        consortium.kill(SERVER, process)
    consortium.stop(SERVER)
    edit(consortium.kit(SERVER) / "local" / "resources.json", _one_job_at_a_time)
    _start_again(consortium)
    for site in SITES:
        consortium.wait_for(lambda name=site: not consortium.job_processes(name), 60, f"{site} is idle")
        assert "Received command to abort job" in consortium.site_log(site)
    assert consortium.status(job) == "RUNNING"
    with pytest.raises(RefusedError, match=f"Job {job} is not running"):
        consortium.nvflare("job", "abort", job, "--force")
    with pytest.raises(RefusedError, match="JOB_NOT_DONE"):
        consortium.nvflare("job", "delete", job, "--force")

    left = consortium.kit(SERVER) / job
    assert finished_rounds(left / "app_server") == 1
    again = consortium.submit(resume(left, tmp_path / "again"))
    assert consortium.wait(again) == "FINISHED:COMPLETED", "the job that hangs is in nobody's way"
    done = results(consortium, again)
    assert updates(done) == {(number, site) for number in range(2, ROUNDS + 1) for site in SITES}
    assert_same_bits(weights(done), uninterrupted)
    assert consortium.status(job) == "RUNNING"

    consortium.stop(SERVER)
    shutil.rmtree(consortium.stored_jobs()[job])
    _start_again(consortium)
    listed = json.dumps(consortium.nvflare("job", "list"))
    assert again in listed
    assert job not in listed


def _one_job_at_a_time(resources: dict) -> None:
    """As the policy has it; the tests' server allows two."""
    (scheduler,) = (part for part in resources["components"] if part["id"] == "job_scheduler")
    scheduler["args"]["max_jobs"] = 1


def _start_again(consortium: Federation) -> None:
    """Until the sites, which nobody touched, are back."""
    seen = len(consortium.server_log())
    consortium.start(SERVER)
    for site in SITES:
        back = f"Re-activate the client: {site} "
        consortium.wait_for(lambda text=back: text in consortium.server_log()[seen:], 60, back)
