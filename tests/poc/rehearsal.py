"""poc/run.sh as a user starts it, with a HOME of its own; finds the processes that it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tiny_work import hospitals

ROOT = Path(__file__).parents[2]
RUN = ROOT / "poc" / "run.sh"
BIN = Path(sys.executable).parent
PROC = Path("/proc")
STEP = re.compile(r"round 1/\d+ step ")


def site_files(folder: Path) -> Path:
    """A folder for --site-config: two hospitals of a few tiny cases, liver and spleen."""
    for site, file in hospitals(folder).items():
        given = json.loads(file.read_text(encoding="utf-8"))
        given |= {key: f"{site}/{given[key]}" for key in ("data_root", "cache_dir")}
        (folder / f"{site}.json").write_text(json.dumps(given), encoding="utf-8")
    return folder


class Rehearsal:
    """One call of run.sh. ``output`` grows while it runs; leaving the ``with`` block leaves nothing behind."""

    def __init__(self, folder: Path, *arguments: str):
        self.home, self.workspace, self.out = folder / "user", folder / "workspace", folder / "out"
        self._log = folder / "output.txt"
        self._command = ["bash", str(RUN), *arguments, "--workspace", str(self.workspace), "--out", str(self.out)]

    def __enter__(self) -> Rehearsal:
        self.home.mkdir()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=user_environment(self.home),
                cwd=self.home.parent,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Also after a failed test: ask run.sh to end, and kill what it has left."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float) -> int:
        return self.process.wait(timeout)

    def wait_for(self, line: str, timeout: float) -> None:
        self.wait_until(lambda: line in self.output, timeout)

    def wait_until(self, condition: Callable[[], object], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"run.sh ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not within {timeout} s:\n{self.output}"
            time.sleep(0.1)

    def result(self) -> Path:
        """The app folder of the one downloaded job."""
        (found,) = self.out.glob("*/workspace/app_server")
        return found

    def training(self) -> bool:
        """Whether both sites say that they train."""
        logs = self.workspace.glob("poc/*/prod_00/*/*/log.txt")
        return sum(bool(STEP.search(log.read_text(encoding="utf-8", errors="replace"))) for log in logs) == 2

    def processes(self) -> dict[int, str]:
        """Command line by id of every process that works in, or was started for, this rehearsal's workspace."""
        return {pid: text for pid in _pids() if str(self.workspace) in (text := _environment_and_command(pid))}

    def seconds(self) -> dict[str, int]:
        """When each step began, as run.sh says."""
        return {name: int(at) for name, at in re.findall(r"^== (\w+).* \((\d+)s\)$", self.output, re.MULTILINE)}


def user_environment(home: Path) -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    unwanted = {"NVFLARE_POC_WORKSPACE", "FEDPARTIAL_RUN"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", "FEDPARTIAL_DEVICE": "cpu"}


def _pids() -> list[int]:
    return [int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit() and int(folder.name) != os.getpid()]


def _environment_and_command(pid: int) -> str:
    """Empty for a process that has ended or belongs to somebody else."""
    try:
        texts = [(PROC / str(pid) / name).read_bytes() for name in ("environ", "cmdline")]
    except OSError:
        return ""
    return b"\0".join(texts).decode(errors="replace") if texts[1] else ""
