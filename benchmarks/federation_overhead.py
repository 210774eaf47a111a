"""Time and memory of a federation that trains nothing: seconds per round, start-up, the server's memory by sites.

    python benchmarks/federation_overhead.py --sites 2 4 8 16
    python benchmarks/federation_overhead.py --presets abdomen --sites 2 4 8 --threads 1

Every line is a run of FLARE's simulator with the server of jobs/condistfl (rounds, guard, exact mean, server optimiser,
model files, run state) and sites that answer at once (idle_site.py): what is left is what the federation itself costs.
"phantom" is a small network, "abdomen" that of the paper, 31 million parameters. --threads 0 gives every site a lasting
process, 1 starts a new process for every task, as the plain command of FLARE does.

start: seconds from the command to the server's first word. first, s per round: from one finished round to the next, the
median of those after the first. The server's memory is that of the process which runs the server, above what it had
before it loaded the first model: the most of all resident pages, and of those that belong to no file (sampled). Sites
are processes on the same machine; a line that would need more memory than --memory-gib is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "jobs" / "condistfl" / "app" / "config" / "config_fed_server.json"
MIB = 2**20
MODEL_MIB = {"phantom": 1, "abdomen": 119}
PROCESS_MIB = 150
WORKER = "simulator_worker"
HEADING = (
    "preset",
    "sites",
    "threads",
    "start s",
    "first round s",
    "s per round (least to most)",
    "server MiB",
    "of no file MiB",
    "CPU s of the run",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=MODEL_MIB, default=list(MODEL_MIB))
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=0, help="site processes at a time; 0: one for each site")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-gib", type=float, default=8.0, help="what the whole run may need")
    parser.add_argument("--log", type=Path, help="file for FLARE's log of the last run")
    given = parser.parse_args()
    print(_line(HEADING), _line(["---"] * len(HEADING)), sep="\n")
    for preset in given.presets:
        for sites in given.sites:
            threads = given.threads or sites
            if needed_mib(preset, sites, threads) > given.memory_gib * 1024:
                print(_line((preset, sites, threads, "left out: too much memory for this machine")), flush=True)
                continue
            print(_line((preset, sites, threads, *measure(preset, sites, threads, given))), flush=True)


def needed_mib(preset: str, sites: int, threads: int) -> int:
    """Of a site: the model, its update and a message in parts; of the server: a sum of 4 models, and 6 more."""
    model = MODEL_MIB[preset]
    return min(threads, sites) * (PROCESS_MIB + 3 * model) + 500 + 10 * model


def measure(preset: str, sites: int, threads: int, given: argparse.Namespace) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder / "job", preset, [f"site{i:02}" for i in range(sites)], given.rounds)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        memory = run(folder, threads, given.log or folder / "log")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = (folder / "workspace/server/simulate_job/app_server/progress.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ends = [event["time"] for event in events if event["event"] == "round"]
    if len(ends) != given.rounds:
        raise SystemExit(f"{len(ends)} of {given.rounds} rounds: see --log")
    begun = next(event["time"] for event in events if event["event"] == "plan")
    later = [end - start for start, end in itertools.pairwise(ends)]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = f"{statistics.median(later):.2f} ({min(later):.2f} to {max(later):.2f})"
    above = (f"{kib / 1024:.0f}" for kib in memory.most_after(begun))
    return f"{begun - started:.1f}", f"{ends[0] - begun:.2f}", seconds, *above, f"{cpu:.0f}"


def write_job(folder: Path, preset: str, sites: list[str], rounds: int) -> None:
    """The server of jobs/condistfl without the final evaluation; the sites' code travels in the job."""
    server = json.loads(TEMPLATE.read_text())
    server |= {"preset": preset, "num_rounds": rounds, "local_steps": 1, "min_clients": len(sites)}
    server["workflows"] = [one for one in server["workflows"] if one["id"] == "rounds"]
    executor = {
        "path": "nvflare.app_common.executors.learner_executor.LearnerExecutor",
        "args": {"learner_id": "learner"},
    }
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": executor}],
        "components": [{"id": "learner", "path": "idle_site.IdleSite", "args": {}}],
    }
    meta = {"name": "overhead", "resource_spec": {}, "min_clients": len(sites), "mandatory_clients": []}
    for path, content in (
        ("meta.json", meta | {"deploy_map": {"app": ["server", *sites]}}),
        ("app/config/config_fed_server.json", server),
        ("app/config/config_fed_client.json", client),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    custom = folder / "app" / "custom"
    custom.mkdir()
    (custom / "idle_site.py").write_text(Path(__file__).with_name("idle_site.py").read_text())


def run(folder: Path, threads: int, log: Path) -> Memory:
    """Run the job and watch the server's memory; SystemExit with the end of FLARE's log where it fails."""
    command = [sys.executable, "-m", "nvflare.cli", "simulator", str(folder / "job")]
    command += ["-w", str(folder / "workspace"), "-t", str(threads)]
    environment = {**os.environ, "FEDPARTIAL_HOME": str(folder / "home")}
    watch = Memory()
    with log.open("w") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
        try:
            while running.poll() is None:
                watch.look(running.pid)
                time.sleep(0.02)
        finally:
            _end(running.pid)
    if running.returncode:
        print(log.read_text()[-3000:], file=sys.stderr)
        raise SystemExit(f"the simulator ended with exit code {running.returncode}")
    return watch


class Memory:
    """Follows the process of the simulator's server: the largest one forked from the command itself."""

    def __init__(self) -> None:
        self._seen: dict[int, list[dict[str, float]]] = {}

    def look(self, pid: int) -> None:
        for process in _forked(pid):
            if found := _status(process):
                self._seen.setdefault(process, []).append(found | {"time": time.time()})

    def most_after(self, begun: float) -> tuple[float, float]:
        """The most memory above that at the time ``begun``: resident, and resident of no file; KiB."""
        server = max(self._seen.values(), key=lambda looks: looks[-1]["VmHWM"])
        start = next(look for look in reversed(server) if look["time"] <= begun)
        resident = max(look["VmHWM"] for look in server) - start["VmRSS"]
        return resident, max(look["RssAnon"] for look in server) - start["RssAnon"]


def _end(pid: int) -> None:
    """No process of an interrupted run outlives it."""
    with contextlib.suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            process.kill()


def _forked(pid: int) -> list[int]:
    try:
        children = psutil.Process(pid).children()
        return [child.pid for child in children if WORKER not in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def _status(pid: int) -> dict[str, int]:
    """KiB by name of /proc/PID/status; empty for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon")))
    return {name.rstrip(":"): int(value) for name, value, _ in pairs}


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
