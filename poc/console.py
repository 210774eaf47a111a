"""Drives FLARE's real admin console through a pseudo-terminal, as a lead would, and records the session.

python poc/console.py ADMIN_KIT --user lead@consortium.org --job JOB --out DIR

Against a running federation, POC or provisioned: login, both check_status, submit_job, list_jobs until the job has
ended, download_job, then a second submission that abort_job ends, and bye. Every answer is checked and has a time
limit. DIR receives the downloaded job and console.txt. Exit codes: 0 everything was answered as expected, 1 not.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect

from fedpartial.cli.job_folder import LEFT_OUT

PROMPT, USER_NAME, SURE = r"\r\n> $", "User Name: ", r"Are you sure \(y/N\): "
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")
TOKEN = re.compile(rf"(\| (?:True|False) +\| ){ID}")
COMPLETED, ABORTED = "FINISHED:COMPLETED", "FINISHED:ABORTED"
SECONDS_BETWEEN_LOOKS = 2.0


class ConsoleError(Exception):
    """The console did not answer as expected; the text says what was sent, expected and received."""


class Console:
    """One session. ``transcript`` collects what a person would have seen, paths below ``hidden`` shortened."""

    def __init__(self, kit: Path, patience: float):
        self.hidden, self.patience, self.transcript = str(kit.parent), patience, ""
        environment = {**os.environ, "TERM": "dumb"}
        script = str(kit / "startup" / "fl_admin.sh")
        self.process = pexpect.spawn(script, env=environment, encoding="utf-8", dimensions=(40, 240), timeout=patience)

    def login(self, user: str) -> None:
        """A provisioned kit's certificate says who this is; FLARE asks for a name only where it does not."""
        seen = self._until([PROMPT, USER_NAME], "login")
        self._record(seen)
        if seen.endswith(USER_NAME):
            self._send(user)
            self._record(self._until(PROMPT, "login"))

    def ask(self, command: str, expected: str, *, confirm: bool = False) -> re.Match:
        """Send a command; the match of ``expected`` in its answer. ConsoleError when there is none in time."""
        answer = self._answer(command, confirm)
        self._record(answer)
        if match := re.search(expected, answer):
            return match
        raise ConsoleError(f"{command}: expected {expected!r}, the console answered:\n{answer}")

    def wait(self, command: str, ended: Callable[[str], bool], limit: float) -> str:
        """Repeat a command until its answer will do; the transcript keeps the last one and a mark for the others."""
        deadline, asked = time.monotonic() + limit, 1
        while not ended(answer := self._answer(command)):
            if time.monotonic() > deadline:
                raise ConsoleError(f"{command}: nothing new for {limit:g} s; the last answer was:\n{answer}")
            time.sleep(SECONDS_BETWEEN_LOOKS)
            asked += 1
        if asked > 1:
            self.transcript += f"[... {asked - 1} time(s) the same command, while the job was not there yet ...]\n> "
        self._record(answer)
        return answer

    def bye(self) -> None:
        self._send("bye")
        self._record(self._until(pexpect.EOF, "bye"))

    def end(self) -> None:
        """However the session went, no console is left."""
        self.process.close(force=True)

    def _send(self, line: str) -> None:
        self.process.sendline(line)

    def _answer(self, command: str, confirm: bool = False) -> str:
        """The command's echo and everything up to the next prompt."""
        self._send(command)
        question = ""
        if confirm:
            question = self._until(SURE, command)
            self._send("y")
        return question + self._until(PROMPT, command)

    def _until(self, expected: object, what: str) -> str:
        try:
            self.process.expect(expected)
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            raise ConsoleError(f"{what}: no answer within {self.patience:g} s, but:\n{self.process.before}") from error
        after = self.process.after if isinstance(self.process.after, str) else ""
        return ANSI.sub("", self.process.before + after).replace("\r", "")

    def _record(self, text: str) -> None:
        """Without this machine's paths and the sites' session tokens."""
        text = text.replace(self.hidden, "<workspace>")
        self.transcript += TOKEN.sub(lambda found: f"{found[1]}{'<token>':<36}", text)


def session(console: Console, kit: Path, job: Path, limit: float) -> str:
    """The whole session after login; the id of the job that was completed."""
    transfer = kit / "transfer"
    shutil.copytree(job, transfer / job.name, ignore=LEFT_OUT)  # FLARE signs the folder it submits; not the user's
    console.ask("check_status server", "Engine status: ")
    console.ask("check_status client", r"\| CLIENT")
    first = console.ask(f"submit_job {job.name}", rf"Submitted job: ({ID})")[1]
    console.ask("list_jobs", re.escape(first[:8]))
    if COMPLETED not in (listing := console.wait(f"list_jobs {first}", lambda text: "FINISHED:" in text, limit)):
        raise ConsoleError(f"the job was not completed:\n{listing}")
    console.ask(f"download_job {first}", r"(?i)download")
    if not (transfer / first).is_dir():
        raise ConsoleError(f"download_job {first}: there is no {first} in the kit's transfer folder")
    abort(console, console.ask(f"submit_job {job.name}", rf"Submitted job: ({ID})")[1], limit)
    console.bye()
    return first


def abort(console: Console, job: str, limit: float) -> None:
    """Abort a job as soon as it runs, and see that it ends as aborted."""
    console.wait(f"list_jobs {job}", lambda text: "RUNNING" in text, limit)
    console.ask(f"abort_job {job}", "(?i)abort signal", confirm=True)
    if ABORTED not in (listing := console.wait(f"list_jobs {job}", lambda text: "FINISHED:" in text, limit)):
        raise ConsoleError(f"the job was not aborted:\n{listing}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="startup kit of an administrator")
    parser.add_argument("--user", default="", help="the administrator's name, where the kit does not say it")
    parser.add_argument("--job", type=Path, required=True, help="job folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the downloaded job and console.txt")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that a job may take")
    parser.add_argument("--patience", type=float, default=60, help="seconds that one answer may take")
    given = parser.parse_args()
    kit, job, console = given.kit.absolute(), given.job.absolute(), None
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        console = Console(kit, given.patience)
        console.login(given.user)
        done = session(console, kit, job, given.timeout)
        shutil.move(kit / "transfer" / done, given.out / done)
    except ConsoleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if console is not None:
            console.end()
            (given.out / "console.txt").write_text(console.transcript, encoding="utf-8")
            print(console.transcript)
    return 0


if __name__ == "__main__":
    sys.exit(main())
