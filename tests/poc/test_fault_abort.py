"""The lead aborts the job in the middle of a round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
from fault_work import (
    ROUNDS,
    assert_same_bits,
    finished_rounds,
    results,
    resume,
    updates,
    wait_until_training,
    weights,
    whole_job,
)
from real_federation import Federation
from startup_kits import LEAD
from tiny_work import SITES

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
TOLD, STOPPED = "Received command to abort job", "stopped before step"
CONSOLE = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session(sys.argv[1], sys.argv[2])
print("logged in", flush=True)
sys.stdin.readline()
try:
    session.abort_job(sys.argv[3])
finally:
    session.close()
"""
STEP_SECONDS = 2.0
"""More than a step takes on a slow machine; seven of them are left when the abort comes."""


def test_every_site_stops_within_a_step_and_the_run_continues_to_the_same_model(consortium, uninterrupted, tmp_path):
    job = consortium.submit(whole_job(tmp_path / "job", min_sites=2))
    with _lead_at_the_console(consortium, job) as abort:
        for site in SITES:
            wait_until_training(consortium, job, site, 2)
        abort()
    for site in SITES:
        consortium.wait_for(lambda name=site: not consortium.job_processes(name), 15, f"{site} is idle")
        told, stopped = (_time_of(line, job, consortium.site_log(site)) for line in (TOLD, STOPPED))
        assert stopped - told < STEP_SECONDS, f"{site} trained on for {stopped - told:.1f} s"
    assert consortium.wait(job) == "FINISHED:ABORTED"
    left = results(consortium, job)
    assert finished_rounds(left) == 1
    assert updates(left) == {(1, site) for site in SITES}
    again = consortium.submit(resume(left, tmp_path / "again"))
    assert consortium.wait(again) == "FINISHED:COMPLETED"
    done = results(consortium, again)
    assert updates(done) == {(number, site) for number in range(2, ROUNDS + 1) for site in SITES}
    assert_same_bits(weights(done), uninterrupted)


@contextmanager
def _lead_at_the_console(consortium: Federation, job: str) -> Iterator[Callable[[], object]]:
    """A lead who is logged in already: a command of its own takes seconds to start, and the round would be over."""
    command = [sys.executable, "-c", CONSOLE, LEAD.name, str(consortium.kit(LEAD)), job]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=consortium.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as lead:
        try:
            assert "logged in\n" in lead.stdout
            yield lambda: print("now", file=lead.stdin, flush=True)
            assert lead.wait(30) == 0
        finally:
            lead.kill()


def _time_of(what: str, job: str, log: str) -> float:
    """When the site logged this about the job."""
    (found,) = (line for line in log.splitlines() if what in line and job in line)
    return datetime.strptime(found[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
