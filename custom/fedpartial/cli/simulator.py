"""FLARE's simulator as a child process that never outlives the run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from pathlib import Path

from fedpartial.cli.processes import MARK_VARIABLE, RunProcesses
from fedpartial.errors import ConfigError
from fedpartial.sites import CACHE_VARIABLE, DEVICE_VARIABLE, HOME_VARIABLE, default_cache_dir, default_home

RUN = "simulate_job"
"""What the simulator calls the job in its workspace."""

SERVER_APP = Path("server") / RUN / "app_server"
SITE_BYTES = 600 * 1024**2
SERVER_BYTES = 1024**3


class Simulation:
    """Runs ``command`` while the ``with`` block lasts; leaving it ends every process of the run."""

    def __init__(
        self,
        command: list[str],
        *,
        workspace: Path,
        log: Path,
        device: str | None,
        home: Path | None = None,
        patience: float = 10.0,
    ):
        mark = uuid.uuid4().hex
        self.command, self.log, self.patience = command, log, patience
        self.processes = RunProcesses(mark, workspace)
        self._environment = {**environment(device, home), MARK_VARIABLE: mark}

    def __enter__(self) -> Simulation:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.end(self.patience, self.exit_code)

    def exit_code(self) -> int | None:
        """None while the simulator runs."""
        return self._process.poll()


def simulator_command(job: Path, workspace: Path, threads: int) -> list[str]:
    """``nvflare simulator``, of the Python that runs now."""
    arguments = [str(job), "-w", str(workspace), "-t", str(threads)]
    return [sys.executable, "-m", "nvflare.cli", "simulator", *arguments]


def environment(device: str | None, home: Path | None = None) -> dict[str, str]:
    """For the simulator; its processes work in other folders, so cache and home must not be relative paths."""
    chosen = default_home() if home is None else home.absolute()
    own = {CACHE_VARIABLE: str(default_cache_dir()), HOME_VARIABLE: str(chosen), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **({DEVICE_VARIABLE: device} if device else {})}


def plain_path(folder: Path, links: Path) -> Path:
    """``folder``, by way of a link in ``links`` where its path has characters that FLARE's shell line cannot hold."""
    _check_plain("Python", Path(sys.executable))
    if _is_plain(folder):
        return folder
    _check_plain("temporary folder", links)
    (links / "out").symlink_to(folder, target_is_directory=True)
    return links / "out"


def _is_plain(path: Path) -> bool:
    return shlex.quote(str(path)) == str(path)


def _check_plain(what: str, path: Path) -> None:
    if not _is_plain(path):
        raise ConfigError(
            where=what,
            field="path",
            got=str(path),
            expected="a path without spaces and quotes",
            remedy="FLARE cannot start its site processes from such a path: move it.",
        )


def default_threads(num_sites: int) -> int:
    """A lasting process per site as far as memory goes; with fewer, FLARE starts a new one for every task."""
    fit = (available_bytes() - SERVER_BYTES) // SITE_BYTES
    return max(1, min(num_sites, fit))


def available_bytes() -> int:
    """Memory that is free for new processes, or a container's limit where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if limit.exists() and (value := limit.read_text(encoding="ascii").strip()) != "max":
        found.append(int(value))
    return min(found)
