"""Wall time, peak memory of all processes, and scores of a whole job, from an empty cache.

    python benchmarks/whole_job.py -- nvflare simulator jobs/condistfl
    python benchmarks/whole_job.py -- nvflare simulator jobs/condistfl -t 4

Runs the command in a temporary folder with an empty FEDPARTIAL_CACHE, adds up the proportional set size of
its process tree twice a second, and reads report.json. --keep DIR keeps the report and the models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def tree_memory(process: psutil.Process) -> int:
    """Proportional set size of a process and its descendants in bytes: shared pages count once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def measure(command: list[str], folder: Path, cache: Path) -> tuple[float, int, int]:
    """(seconds, peak bytes, exit code) of the command, run in ``folder``."""
    started, peak = time.monotonic(), 0
    environment = {**os.environ, "FEDPARTIAL_CACHE": str(cache)}
    with (folder / "output.log").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        watched = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak = max(peak, tree_memory(watched))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.5)
    return time.monotonic() - started, peak, running.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the report and the models")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- the command; paths of jobs from the root")
    arguments = parser.parse_args()
    command = [str(ROOT / word) if word.startswith("jobs/") else word for word in arguments.command if word != "--"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, peak, code = measure(command, folder, folder / "cache")
        print(f"command    {' '.join(arguments.command)}\nmachine    {os.cpu_count()} cores, {platform.machine()}")
        print(f"exit code  {code}\nseconds    {seconds:.0f}\npeak MiB   {peak / 2**20:.0f}")
        reports = [path for path in folder.rglob("report.json") if "cache" not in path.parts]
        for path in reports:
            show(path)
            if arguments.keep:
                shutil.copytree(path.parent, arguments.keep, dirs_exist_ok=True)
        if not reports:
            print((folder / "output.log").read_text()[-3000:])


def show(path: Path) -> None:
    report = json.loads(path.read_text())
    print(f"commit     {report['commit']}\nseed       {report['seed']}\nselected   {report['selected_model']}")
    print(f"phases     { {name: round(value) for name, value in report['phases'].items()} }")
    for name, scores in report["external"].items():
        dice = scores["dice"]
        print(f"external   {name:15s} Dice {dice['mean']:.3f} +- {dice['sd']:.3f} (n {dice['n']})")


if __name__ == "__main__":
    main()
