"""FLARE's admin console through a pseudo-terminal: the session of poc/README.md, and wrong answers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from rehearsal import ROOT, Rehearsal, site_files
from tiny_work import bundle

from fedpartial.evaluation.report import read_report

COMMANDS = ["check_status", "submit_job", "list_jobs", "download_job", "abort_job", "bye"]
FAKE = """#!/usr/bin/env python3
print("Type ? to list commands")
while (line := input("> ")) != "bye":
    print("Engine status: stopped" if line == "check_status server" else "no such command")
"""
SILENT = "#!/usr/bin/env python3\nimport time\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def console():
    """poc/console.py as a module."""
    spec = importlib.util.spec_from_file_location("poc_console", ROOT / "poc" / "console.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kit(folder: Path, script: str) -> Path:
    """A startup kit whose console is this script."""
    target = folder / "kits" / "lead" / "startup" / "fl_admin.sh"
    target.parent.mkdir(parents=True)
    target.write_text(script, encoding="utf-8")
    target.chmod(0o755)
    return target.parents[1]


def test_an_answer_is_found_and_recorded(tmp_path, console):
    session = console.Console(kit(tmp_path, FAKE), patience=10)
    try:
        session.login("lead")
        session.ask("check_status server", "Engine status: ")
        session.bye()
    finally:
        session.end()
    assert session.transcript.count("check_status server\nEngine status: stopped\n> ") == 1
    assert session.transcript.endswith("bye\n")


def test_another_answer_than_expected_fails_with_that_answer(tmp_path, console):
    session = console.Console(kit(tmp_path, FAKE), patience=10)
    try:
        session.login("lead")
        with pytest.raises(console.ConsoleError, match=r"(?s)list_jobs: expected 'JOB ID'.*no such command"):
            session.ask("list_jobs", "JOB ID")
    finally:
        session.end()


def test_a_console_that_never_answers_fails_in_time_and_is_ended(tmp_path, console):
    session = console.Console(kit(tmp_path, SILENT), patience=0.3)
    try:
        with pytest.raises(console.ConsoleError, match=r"login: no answer within 0\.3 s"):
            session.login("lead")
    finally:
        session.end()
    assert not session.process.isalive()


def test_paths_tokens_and_colours_are_not_recorded(tmp_path, console):
    session = console.Console(kit(tmp_path, SILENT), patience=1)
    session.end()
    token = "2c60e29f-d606-4926-a8d3-e2f8fec8acb3"
    session._record(f"| liver | True | {token} | in {tmp_path}/kits/lead/transfer/{token}\n")
    assert session.transcript == f"| liver | True | {'<token>':<36} | in <workspace>/lead/transfer/{token}\n"


@pytest.mark.poc
@pytest.mark.timeout(400)
def test_a_session_in_the_real_console(tmp_path):
    job = bundle(tmp_path / "tiny")
    before = sorted(path.name for path in job.rglob("*"))
    sites = site_files(tmp_path / "sites")
    with Rehearsal(tmp_path, str(job), "--console", "--site-config", str(sites)) as rehearsal:
        assert rehearsal.wait(390) == 0, rehearsal.output
        assert rehearsal.processes() == {}
        app = rehearsal.result()
    transcript = (rehearsal.out / "console.txt").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"> {name}" not in transcript] == []
    (first, second) = re.findall(r"Submitted job: (\S+)", transcript)
    assert re.search(rf"{first} \| condistfl \| FINISHED:COMPLETED", transcript)
    assert re.search(rf"{second} \| condistfl \| FINISHED:ABORTED", transcript)
    assert set(read_report(app / "report.json")["sites"]) == {"liver", "spleen"}
    assert str(tmp_path) not in transcript
    assert "\x1b" not in transcript
    assert sorted(path.name for path in job.rglob("*")) == before, "the console signed the user's own job folder"
