"""One ConDistFL training step, this project's against the reference implementation's, side by side in one run.

    python benchmarks/condistfl_step.py --reference DIR --patch 128 128 64 --precision float32 bfloat16 auto
    python benchmarks/condistfl_step.py --reference DIR --before OLD --profile
    python benchmarks/condistfl_step.py --preset phantom --profile

A step is student forward and backward, teacher forward, marginal Dice and cross entropy on every head, conditional
distillation, clipping and SGD, on a batch that is in memory already. Each side is a process that lives through the run
(``step_process.py``) and trains as at a site; they take a step each in turn. For every precision:

- float32, bfloat16: both in it, the reference under autocast where its own code has none;
- auto: what a site gets. Ours chooses by itself; the reference as written, which is float32 on a CPU and float16 with
  loss scaling on CUDA.

--ours and --before take checkouts of other commits of this project, --before as a third side. Memory is the process's
largest resident size less that after its imports (on CUDA max_memory_allocated). Ratios compare the steps of one turn:
above 1 is faster than the reference. --profile adds a step under torch.profiler, which makes it slower; its shares
are what to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import reference_code

from fedpartial.presets import get_preset

HERE = Path(__file__).resolve().parent
GIB = 2**30
PRECISIONS = ("float32", "bfloat16", "float16", "auto")
HEADING = (
    "precision",
    "side",
    "steps",
    "s per step (least to most)",
    "CPU s",
    "steps/s : reference (least to most)",
    "the same by CPU s",
    "peak GiB",
    "after imports GiB",
    "peak : reference",
)


def main() -> None:
    given = _options()
    preset = get_preset(given.preset)
    given.patch = given.patch or list(preset.patch)
    sides = _sides(given)
    rows, profiles = [], {}
    for precision in given.precision:
        found = _measure(precision, sides, given)
        named = {side: _name(precision, result) for side, result in found.items()}
        rows += [_line((named[side], side, *_cells(side, found))) for side in found]
        profiles |= {f"{side} {named[side]}": result.get("profile") for side, result in found.items()}
    what = {f"{result['device']}; {result['parameters']} parameters" for result in found.values()}
    patch = f"{given.batch} x {' x '.join(map(str, given.patch))} voxels"
    print(f"{'; '.join(what)}; preset {preset.name}, {patch}", end="\n\n")
    print(_line(HEADING), _line(["---"] * len(HEADING)), *rows, sep="\n")
    if given.profile:
        for part in ("phases", "kinds", "operations"):
            print("", *_shares(part, profiles), sep="\n")


def _sides(given: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The environment of each side's process, after a line on which version it is."""
    folders = {side: folder for side in ("ours", "before") if (folder := getattr(given, side))}
    for side, folder in folders.items():
        print(f"{side}: commit {_commit(folder)}")
    sides = {side: {"PYTHONPATH": str(folder.resolve() / "custom")} for side, folder in folders.items()}
    if given.reference:
        sides["reference"] = {}
        print(reference_code.find_reference(given.reference).describe())
    return sides


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reference_code.add_option(parser, required=False)
    parser.add_argument("--ours", type=Path, default=HERE.parent, metavar="DIR", help="a checkout of this project")
    parser.add_argument("--before", type=Path, metavar="DIR", help="one of an earlier commit")
    parser.add_argument("--preset", default="abdomen", choices=("abdomen", "phantom"), help="abdomen: the reference's")
    parser.add_argument("--patch", type=int, nargs=3, help="voxels; the preset's own if not given")
    parser.add_argument("--batch", type=int, default=1, help="patches in a batch")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=PRECISIONS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU; 0: as many as torch takes")
    parser.add_argument("--repeats", type=int, default=3, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before those")
    parser.add_argument("--limit", type=float, help="seconds: begin no turn of steps that would end later")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    if given.reference and given.preset != "abdomen":
        parser.error("--preset: the reference trains no network without deep supervision; leave out --reference")
    return given


def _measure(precision: str, sides: dict[str, dict], given: argparse.Namespace) -> dict[str, dict]:
    """What each side's process said of itself, with its steps: {"steps": [{"seconds": ...}], "profile": ...}."""
    spec = {name: getattr(given, name) for name in ("patch", "batch", "device", "threads", "preset")}
    spec["folder"] = str(given.reference)
    processes, found = {}, {}
    try:
        for side, environment in sides.items():
            own = {"side": "reference" if side == "reference" else "ours", "precision": precision}
            if side == "reference" and precision == "auto":
                own["precision"] = "as written"
            processes[side] = _start(spec | own, environment)
            found[side] = _answer(processes[side]) | {"steps": []}
        begun = time.monotonic()
        for turn in range(-given.warm_up, given.repeats):
            last = time.monotonic()
            for side, process in processes.items():
                step = _ask(process, "step")
                found[side]["steps"] += [step] if turn >= 0 else []
            if turn >= 0 and given.limit and 2 * time.monotonic() - last - begun > given.limit:
                break
        if given.profile:
            for side, process in processes.items():
                found[side]["profile"] = _ask(process, "profile")["profile"]
    finally:
        for process in processes.values():
            process.communicate("end\n")
    return found


def _start(spec: dict, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "step_process.py"), json.dumps(spec)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment)


def _ask(process: subprocess.Popen, command: str) -> dict:
    print(command, file=process.stdin, flush=True)
    return _answer(process)


def _answer(process: subprocess.Popen) -> dict:
    if line := process.stdout.readline():
        return json.loads(line)
    raise SystemExit(f"a side ended with exit code {process.wait()} (-9: out of memory); its own words are above")


def _name(precision: str, result: dict) -> str:
    return precision if precision == result["precision"] else f"{precision}: {result['precision']}"


def _cells(side: str, found: dict[str, dict]) -> list[str]:
    this, reference = found[side], found.get("reference")
    wall, cpu = ([step[key] for step in this["steps"]] for key in ("seconds", "cpu_seconds"))
    peak = _peak(this)
    cells = [str(len(wall)), _spread(wall, 2), f"{statistics.median(cpu):.2f}"]
    if reference:
        pairs = list(zip(reference["steps"], this["steps"], strict=True))
        cells += [_spread([theirs[key] / own[key] for theirs, own in pairs], 2) for key in ("seconds", "cpu_seconds")]
    cells += [""] * (not reference) * 2 + [f"{peak / GIB:.2f}", f"{this['start'] / GIB:.2f}"]
    return [*cells, f"{peak / _peak(reference):.0%}" if reference else ""]


def _peak(result: dict) -> int:
    """Bytes of the steps themselves: a GPU's memory, or what the process grew by."""
    most = max(step["peak"] for step in result["steps"])
    return most - (0 if result["on_gpu"] else result["start"])


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _shares(part: str, profiles: dict[str, dict]) -> list[str]:
    """A table of seconds and shares of each side's step."""
    names = list(dict.fromkeys(name for profile in profiles.values() for name in profile[part]))
    rows = [_line([part, *profiles]), "|---" * (1 + len(profiles)) + "|"]
    for name in names:
        cells = []
        for profile in profiles.values():
            seconds, total = profile[part].get(name, 0.0), sum(profile["kinds"].values())
            cells.append(f"{seconds:.2f} s, {seconds / total:.0%}")
        rows.append(_line([name, *cells]))
    return rows


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
