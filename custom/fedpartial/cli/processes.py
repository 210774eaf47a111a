"""The processes of one run. FLARE starts every site in a session of its own, so one process group is not enough.

On Linux a run's processes are those that inherited its mark in their environment; elsewhere those of FLARE
whose command line names its workspace.

    python -m fedpartial.cli.processes MARK WORKSPACE     ends them; exit code 1 where one survives
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MARK_VARIABLE = "FEDPARTIAL_RUN"
PROC = Path("/proc")
SITE_PROCESS = re.compile(r"simulator_worker\s.*--client\s+(\S+)")


class RunProcesses:
    """Finds, names and ends the processes of the run with this mark and workspace."""

    def __init__(self, mark: str, workspace: Path):
        self.mark, self.workspace = mark, workspace

    def running(self) -> dict[int, str]:
        """Command line by process id; without this process and without those that only wait to be reaped."""
        found = self._by_mark() if (PROC / "self/environ").exists() else self.by_command()
        return {pid: command for pid, command in found if pid != os.getpid()}

    def sites(self) -> set[str]:
        """Names of the sites that have a process now."""
        matches = (SITE_PROCESS.search(command) for command in self.running().values())
        return {match.group(1) for match in matches if match}

    def end(self, patience: float, reap: Callable[[], object]) -> None:
        """Ask all to end, and kill what is left after ``patience`` seconds or at a second Ctrl-C.

        ``reap`` collects the exit status of the process that was started here.
        """
        try:
            self._signal(signal.SIGTERM)
            self._wait(patience, reap)
        finally:
            self._signal(signal.SIGKILL)
            self._wait(patience, reap)

    def _wait(self, patience: float, reap: Callable[[], object]) -> None:
        deadline = time.monotonic() + patience
        while reap() is None or self.running():
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the groups that these processes lead or belong to, never our own."""
        groups = set()
        for pid in self.running():
            try:
                groups.add(os.getpgid(pid))
            except ProcessLookupError:
                continue
        for group in groups - {os.getpgrp()}:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                continue

    def _by_mark(self) -> Iterator[tuple[int, str]]:
        wanted = f"{MARK_VARIABLE}={self.mark}".encode()
        for folder in PROC.iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    yield int(folder.name), command.decode(errors="replace")
            except OSError:
                continue

    def by_command(self) -> Iterator[tuple[int, str]]:
        """The same from ``ps``, for systems without /proc."""
        listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,stat=,command="], capture_output=True, text=True)
        for line in listing.stdout.splitlines():
            pid, state, command = line.split(maxsplit=2)
            if "nvflare" in command and str(self.workspace) in command and not state.startswith("Z"):
                yield int(pid), command


def end_run(mark: str, workspace: Path, patience: float = 10.0) -> int:
    """End every process of a run that is not a child of this one; the command's exit code."""
    processes = RunProcesses(mark, workspace)
    processes.end(patience, lambda: 0)
    for pid, command in processes.running().items():
        print(f"still running: {pid} {command}", file=sys.stderr)
    return 1 if processes.running() else 0


if __name__ == "__main__":
    sys.exit(end_run(sys.argv[1], Path(sys.argv[2])))
