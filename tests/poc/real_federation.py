"""A provisioned federation of real processes with mutual TLS, for one test; nothing of it is left afterwards.

with Federation(tmp_path, ("liver", "spleen")) as federation:
    job = federation.submit(folder)
    assert federation.wait(job) == "FINISHED:COMPLETED"
    result = federation.download(job)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from startup_kits import (
    BIN,
    LEAD,
    OPERATOR,
    SERVER,
    STORE,
    USERS,
    User,
    add_client,
    environment,
    keep_flares_policy,
    provision,
)

from fedpartial.cli.kit import apply_changes, plan_changes, read_kit
from fedpartial.cli.policy import portable_site_files
from fedpartial.cli.processes import MARK_VARIABLE, RunProcesses
from fedpartial.sites import site_file

T = TypeVar("T")
JOB_PROCESS = re.compile(r"nvflare\.private\.fed\.app\.(client\.worker_process|server\.runner_process)")
PARENT_PROCESS = re.compile(r"nvflare\.private\.fed\.app\.(client\.client_train|server\.server_train)")
CACHE_VARIABLE = "FEDPARTIAL_TEST_CACHE"
"""Prepared phantoms from earlier runs; without it they are prepared in the session's own cache."""


class RefusedError(Exception):
    """An ``nvflare`` command ended with an error; the text is what the user sees."""


class Federation:
    """Server and sites as processes on this machine, each started by its own kit's script.

    ``policy`` is a policy of ``fedpartial setup-kit``, for all or by participant, or None for FLARE's defaults.
    ``site_files`` gives sites a file of their own, ``absent`` names sites that are provisioned but not started,
    ``variables`` are added to every process, and ``restart`` uses the kits' ``start.sh``, which starts a dead
    parent again.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[str] = ("liver", "spleen"),
        *,
        policy: str | Mapping[str, str] | None = None,
        site_files: Mapping[str, Path] | None = None,
        absent: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        users: Sequence[User] = USERS,
        restart: bool = False,
    ):
        self.folder, self.sites, self.policy, self.absent = folder, tuple(sites), policy, tuple(absent)
        self.site_files, self.users, self.restart = dict(site_files or {}), tuple(users), restart
        self.home = folder / "home"
        mark = uuid.uuid4().hex
        self.processes = RunProcesses(mark, folder)
        self.started: list[subprocess.Popen] = []
        cache = {"FEDPARTIAL_CACHE": os.environ[CACHE_VARIABLE]} if CACHE_VARIABLE in os.environ else {}
        self.environment = environment(self.home, **{MARK_VARIABLE: mark}, **cache, **dict(variables or {}))

    def __enter__(self) -> Federation:
        self.home.mkdir(parents=True)
        self.kits = provision(self.folder / "provision", self.home, self.sites, self.users)
        for participant in (SERVER, *self.sites):
            self._set_up(participant)
        try:
            self.start(SERVER, *(site for site in self.sites if site not in self.absent))
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End every process of this federation; AssertionError where one survives."""
        self.processes.end(10.0, self._reap)
        assert not self.processes.running(), self.processes.running()

    # participants

    def join(self, site: str) -> None:
        """A hospital comes while the federation lives: a kit of its own, set up and not started."""
        new = self.folder / "provision" / f"{site}.yml"
        new.write_text(json.dumps({"name": site, "org": f"{site}_hospital"}), encoding="utf-8")  # JSON is YAML
        shutil.move(add_client(self.folder / "provision", self.home, new) / site, self.kit(site))
        self.sites = (*self.sites, site)
        self._set_up(site)

    @property
    def port(self) -> int:
        """Where the server listens."""
        given = json.loads((self.kit(SERVER) / "startup" / "fed_server.json").read_text(encoding="utf-8"))
        return int(given["servers"][0]["service"]["target"].rsplit(":", 1)[1])

    def kit(self, participant: str | User) -> Path:
        return self.kits / (participant.name if isinstance(participant, User) else participant)

    def start(self, *participants: str, wait: float = 60.0) -> None:
        """Start the server or sites, together; returns when all of these sites have registered."""
        before = {site: self._registrations(site) for site in participants if site != SERVER}
        for participant in participants:
            self._launch(participant)
        for site, count in before.items():
            self.wait_for(lambda site=site, count=count: self._registrations(site) > count, wait, f"{site} registers")

    def stop(self, *participants: str, wait: float = 20.0) -> None:
        """End all processes of a participant, as when its machine is shut down."""
        for number, patience in ((signal.SIGTERM, wait / 2), (signal.SIGKILL, wait / 2)):
            for pid in self._pids(*participants):
                _signal(pid, number)
            deadline = time.monotonic() + patience
            while self._pids(*participants) and time.monotonic() < deadline:
                time.sleep(0.05)
        assert not self._pids(*participants)

    def kill(self, participant: str, process: Literal["parent", "job"] = "job") -> list[int]:
        """SIGKILL for the parent or the job processes of a participant, as out of memory does; the process ids."""
        pids = self.job_processes(participant) if process == "job" else self.parents(participant)
        assert pids, f"{participant} has no {process} process"
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return pids

    def running(self, participant: str) -> list[int]:
        """Ids of all processes of a participant."""
        return self._pids(participant)

    def job_processes(self, participant: str) -> list[int]:
        return self._matching(participant, JOB_PROCESS)

    def parents(self, participant: str) -> list[int]:
        return self._matching(participant, PARENT_PROCESS)

    # jobs

    def python(self, *arguments: str) -> None:
        """Run the Python that the kits' scripts use; CalledProcessError when it fails."""
        command = ["bash", "-c", 'python3 "$@"', "-", *arguments]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True, timeout=60)

    def nvflare(self, *arguments: str, user: User = LEAD, timeout: float = 120.0) -> dict:
        """An ``nvflare`` command with this user's kit; its data, or RefusedError with what the user sees."""
        command = [str(BIN / "nvflare"), "--format", "json", *arguments, "--startup-kit", str(self.kit(user))]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise RefusedError(f"{done.stdout}{done.stderr}")
        return json.loads(done.stdout)["data"]

    def submit(self, job: Path, user: User = LEAD) -> str:
        return self.nvflare("job", "submit", "-j", str(job), user=user)["job_id"]

    def abort(self, job: str, user: User = LEAD) -> dict:
        return self.nvflare("job", "abort", job, "--force", user=user)

    def download(self, job: str, user: User = LEAD) -> Path:
        """The downloaded job; its results are in ``workspace/app_server``."""
        folder = self.folder / f"download-{uuid.uuid4().hex[:8]}"
        self.nvflare("job", "download", job, "-o", str(folder), user=user)
        return folder / job

    def stored_jobs(self) -> dict[str, Path]:
        """The server's folder of every job it was given."""
        return {path.name: path for path in (self.kit(SERVER) / STORE / "jobs").iterdir()}

    def meta(self, job: str) -> dict:
        """What the server has stored about the job; read from disk, so it costs nothing to ask often."""
        return json.loads((self.stored_jobs()[job] / "meta").read_text(encoding="utf-8"))

    def status(self, job: str) -> str:
        return self.meta(job)["status"]

    def wait(self, job: str, timeout: float = 300.0) -> str:
        """The status with which the job ends."""
        return self.wait_for(lambda: self._final_status(job), timeout, f"job {job} ends")

    def events(self, job: str) -> list[dict]:
        """The server's progress events of a running job so far."""
        path = self.kit(SERVER) / job / "app_server" / "progress.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for_event(self, job: str, event: str, timeout: float = 120.0, **values: object) -> dict:
        """The first progress event of this kind with these values; fails at once when the job ends before."""

        def found() -> dict | None:
            ended = self._final_status(job)
            match = next((e for e in self.events(job) if e["event"] == event and values.items() <= e.items()), None)
            assert match or not ended, f"the job ended with {ended} before {event} {values}"
            return match

        return self.wait_for(found, timeout, f"{event} {values}")

    def wait_for(self, condition: Callable[[], T], timeout: float, what: str) -> T:
        """The first true value of ``condition``; AssertionError with the logs' ends after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s\n{self._tails()}"
            time.sleep(0.1)
        return value

    # logs

    def server_log(self) -> str:
        return self.site_log(SERVER)

    def site_log(self, participant: str) -> str:
        """Everything the participant's processes printed, its jobs' processes too."""
        log = self._console(participant)
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{self.site_log(name)[-3000:]}" for name in (SERVER, *self.sites))

    def _console(self, participant: str) -> Path:
        return self.folder / f"{participant}.log"

    def _set_up(self, participant: str) -> None:
        kit = self.kit(participant)
        if self.policy is None:
            keep_flares_policy(kit)
        else:
            policy = self.policy if isinstance(self.policy, str) else self.policy[participant]
            apply_changes(plan_changes(read_kit(kit), policy, None), force=False)
        if participant in self.site_files:
            target = site_file(kit / "local", participant)
            target.parent.mkdir()
            target.write_text(
                portable_site_files(participant, self.site_files[participant])[participant], encoding="utf-8"
            )

    def _launch(self, participant: str) -> None:
        scripts = self.kit(participant) / "startup"
        command = [scripts / "start.sh"] if self.restart else [scripts / "sub_start.sh", "--once"]
        with self._console(participant).open("ab") as log:
            self.started.append(
                subprocess.Popen(
                    ["bash", *map(str, command)],
                    cwd=self.kit(participant),
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _registrations(self, site: str) -> int:
        return self.site_log(site).count(f"Successfully registered client:{site} ")

    def _final_status(self, job: str) -> str | None:
        status = self.status(job)
        return status if status.startswith("FINISHED") else None

    def _pids(self, *participants: str) -> list[int]:
        self._reap()
        kits = [f"{self.kit(participant)}/" for participant in participants]
        running = self.processes.running().items()
        return [pid for pid, command in running if any(kit in f"{command.replace(' ', '/ ')}" for kit in kits)]

    def _matching(self, participant: str, kind: re.Pattern[str]) -> list[int]:
        running = self.processes.running()
        return [pid for pid in self._pids(participant) if kind.search(running.get(pid, ""))]

    def _reap(self) -> int | None:
        """0 when every script started here has ended."""
        return None if [process for process in self.started if process.poll() is None] else 0


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


__all__ = ["LEAD", "OPERATOR", "SERVER", "Federation", "RefusedError"]
