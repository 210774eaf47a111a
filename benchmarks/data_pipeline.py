"""Cases prepared, patches drawn and memory held: this project beside the reference implementation.

    python benchmarks/data_pipeline.py --reference DIR --data FOLDER
    python benchmarks/data_pipeline.py --reference DIR --data FOLDER --only memory --cases 4 40 400
    python benchmarks/data_pipeline.py --reference DIR --data FOLDER --only workers

Both get the same CTs (large_phantom.py; FOLDER keeps them for the next time), preset ``abdomen`` and the reference's
liver job. What is compared is what a site does: from files to prepared cases once (here a store on disk, with every
check of the files; there a cache in memory), then augmented batches of four patches of 224 x 224 x 64 for ever. Two
processes of one thread take turns; times are CPU seconds. Memory: a process for each number of cases, after every case
was drawn from; copies of the prepared cases are files of their own. --profile adds where a patch's time goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import reference_code
from large_phantom import ensure_large_cases

SIDES = ("ours", "reference")
DISTINCT = 4
LEAST = 20
"""Batches before memory is looked at: allocators keep some of what a few of them took."""


class Process:
    """One side, in a process of its own that waits for commands."""

    def __init__(
        self, side: str, options: argparse.Namespace, scratch: str, *, cases: int = DISTINCT, workers: int = 0
    ):
        spec = {"side": side, "folder": str(options.data), "reference": str(options.reference), "scratch": scratch}
        spec |= {"cases": cases, "distinct": DISTINCT, "workers": workers, "seed": options.seed}
        command = [sys.executable, str(Path(__file__).with_name("data_process.py")), json.dumps(spec)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *command: str | int) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process ended with {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()


def throughput(options: argparse.Namespace, scratch: str) -> None:
    """Both sides in turn: preparing, then drawing batches."""
    with Process("ours", options, scratch) as ours, Process("reference", options, scratch) as reference:
        sides = dict(zip(SIDES, (ours, reference), strict=True))
        print("| CPU seconds per | here | least | most | reference | least | most | ratio | least | most |")
        print("|---|" + "---|" * 9)
        cases = in_turn(sides, options.preparations, lambda side: side("prepare")["cpu_seconds"] / DISTINCT)
        show("case prepared", cases)
        for side in sides.values():
            side("start")
            side("draw", 1)
        labelled = dict.fromkeys(SIDES, 0.0)

        def drawn(side: Process) -> float:
            found = side("draw", options.batches)
            labelled[next(name for name in SIDES if sides[name] is side)] += found["labelled"] / found["patches"]
            return found["cpu_seconds"] / found["patches"]

        patches = in_turn(sides, options.repeats, drawn)
        show("patch", patches)
        shares = ", ".join(f"{name} {share / options.repeats:.0%}" for name, share in labelled.items())
        print(f"Patches that show something labelled: {shares}.")
        if options.profile:
            for name, side in sides.items():
                show_profile(name, side("profile", options.batches * options.repeats))


def in_turn(sides: dict[str, Process], repeats: int, measure: Callable[[Process], float]) -> dict[str, list[float]]:
    """A value of each side, one after the other, ``repeats`` times."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name].append(measure(side))
    return found


def show(what: str, values: dict[str, list[float]]) -> None:
    """Mean, least and most of both sides, and of the ratio of each pair."""
    ratios = [theirs / mine for mine, theirs in zip(*values.values(), strict=True)]
    cells = [f"{f(v):.3f}" for v in values.values() for f in (statistics.mean, min, max)]
    whole = sum(values["reference"]) / sum(values["ours"])
    print(
        "| " + " | ".join((what, *cells, *(f"{r:.2f}" for r in (whole, min(ratios), max(ratios))))) + " |", flush=True
    )


def show_profile(name: str, found: dict) -> None:
    print(f"\n| {name}: part | CPU ms per patch | share |\n|---|---|---|")
    parts = {**found["parts"], "anything else": found["cpu_seconds"] - sum(found["parts"].values())}
    for part, seconds in sorted(parts.items(), key=lambda pair: -pair[1]):
        print(f"| {part} | {1000 * seconds / found['patches']:.1f} | {seconds / found['cpu_seconds']:.0%} |")


def memory(options: argparse.Namespace, scratch: str) -> None:
    """MiB of a process after every case was drawn from; the reference only up to --reference-cases."""
    print("| cases | side | own MiB | pages of files MiB | maps | open files |\n|---|---|---|---|---|---|")
    for cases in options.cases:
        for name in SIDES if cases <= options.reference_cases else SIDES[:1]:
            with Process(name, options, scratch, cases=cases) as side:
                for command in ("prepare", "start"):
                    side(command)
                side("draw", max(LEAST, -(-cases // 2)))
                held = side("memory")
            numbers = (f"{held[key]:.0f}" for key in ("own", "files", "maps", "open"))
            print("| " + " | ".join((str(cases), name, *numbers)) + " |", flush=True)


def workers(options: argparse.Namespace, scratch: str) -> None:
    """Patches per second of wall clock, by the number of worker processes."""
    print("| workers | side | patches/s |\n|---|---|---|")
    for number in (0, 1, 2):
        for name in SIDES:
            with Process(name, options, scratch, workers=number) as side:
                for command in ("prepare", "start"):
                    side(command)
                side("draw", 4)
                found = side("draw", options.batches * 4)
            print(f"| {number} | {name} | {found['patches'] / found['seconds']:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reference_code.add_option(parser)
    parser.add_argument("--data", type=Path, required=True, help="where the CTs are kept")
    parser.add_argument("--only", choices=PARTS, default="throughput")
    parser.add_argument("--cases", type=int, nargs="+", default=[4, 40, 400])
    parser.add_argument("--reference-cases", type=int, default=40, help="the most that the reference caches")
    parser.add_argument("--batches", type=int, default=5, help="in a turn")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--preparations", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(reference_code.find_reference(options.reference).describe())
    ensure_large_cases(options.data, DISTINCT)
    with tempfile.TemporaryDirectory(dir=options.data) as scratch:
        PARTS[options.only](options, scratch)


PARTS = {"throughput": throughput, "memory": memory, "workers": workers}

if __name__ == "__main__":
    main()
