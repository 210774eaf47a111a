"""The site's launcher, with real processes: what is killed comes back, what ends or is told to end does not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
from nvflare.utils.process_utils import spawn_process

from fedpartial.errors import ConfigError
from fedpartial.flare.launcher import RestartingHandle, SiteJobLauncher

SLEEP = "import time; time.sleep(600)"
DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


class Starts:
    """Starts one Python program after the other and remembers their process ids."""

    def __init__(self, *programs: str):
        self.programs, self.pids = list(programs), []

    def __call__(self) -> ProcessHandle:
        process = spawn_process([sys.executable, "-c", self.programs.pop(0)], dict(os.environ))
        self.pids.append(process.pid)
        return ProcessHandle(process_adapter=process)


@pytest.fixture
def handle():
    """Makes handles whose processes end with the test."""
    made: list[RestartingHandle] = []

    def make(starts: Starts, **options) -> tuple[RestartingHandle, list[str]]:
        said: list[str] = []
        made.append(RestartingHandle(starts, **{"max_restarts": 2, "pause": 0.0, **options}, say=said.append))
        return made[-1], said

    yield make
    for one in made:
        one.terminate()


def test_a_killed_process_comes_back_and_its_end_counts(handle):
    starts = Starts(DIE, DIE, "pass")
    job, said = handle(starts)
    job.wait()
    assert job.poll() == JobReturnCode.SUCCESS
    assert len(starts.pids) == len(set(starts.pids)) == 3
    assert [line.split(": ")[-1] for line in said] == ["restart 1 of 2", "restart 2 of 2"]
    assert "signal 9" in said[0]


def test_a_process_killed_too_often_is_given_up_with_a_code_that_fails_no_job(handle):
    starts = Starts(DIE, DIE, DIE, "pass")
    job, said = handle(starts)
    job.wait()
    assert job.poll() == JobReturnCode.UNKNOWN
    assert len(starts.pids) == 3
    assert "given up" in said[-1]


def test_a_process_that_is_asked_to_end_stays_ended_and_the_job_goes_on(handle):
    """An administrator's kill is no accident, and no reason to fail everybody's job."""
    starts = Starts("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "pass")
    job, said = handle(starts)
    job.wait()
    assert job.poll() == JobReturnCode.UNKNOWN
    assert len(starts.pids) == 1
    assert said == ["the job's process was ended by signal 15: given up, the job goes on without this site"]


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("raise SystemExit(1)", 1), ("raise SystemExit(9)", 9)])
def test_a_process_that_ends_by_itself_is_not_started_again(handle, program, code):
    starts = Starts(program, "pass")
    job, said = handle(starts)
    job.wait()
    assert job.poll() == code
    assert len(starts.pids) == 1
    assert said == []


def test_a_job_that_is_told_to_end_stays_ended(handle):
    starts = Starts(SLEEP, SLEEP)
    job, _ = handle(starts)
    waiting = threading.Thread(target=job.wait)
    waiting.start()
    job.terminate()
    waiting.join(60)
    assert not waiting.is_alive()
    assert len(starts.pids) == 1
    assert not Path(f"/proc/{starts.pids[0]}").exists()


def test_an_end_during_the_pause_prevents_the_restart(handle):
    starts = Starts(SLEEP, SLEEP)
    job, said = handle(starts, pause=600.0)
    waiting = threading.Thread(target=job.wait)
    waiting.start()
    os.kill(starts.pids[0], signal.SIGKILL)
    while not said:
        time.sleep(0.01)
    job.terminate()
    waiting.join(60)
    assert not waiting.is_alive()
    assert len(starts.pids) == 1


@pytest.mark.parametrize(
    "options", [{"max_restarts": -1}, {"max_restarts": "2"}, {"max_restarts": True}, {"pause": -1}]
)
def test_a_wrong_setting_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SiteJobLauncher(**options)
