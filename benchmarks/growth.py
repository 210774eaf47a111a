"""How time and memory grow with classes, sites and volume: a table for each axis, with fitted exponents.

    python benchmarks/growth.py                              # everything, about 10 minutes on one core
    python benchmarks/growth.py --axis classes --only "step, ConDistFL" "marginal Dice + CE"

Every point is a process of its own that has run nothing but the smallest point of its series: its inputs are made, it
runs once for its peak memory (of pages, above what inputs and program hold), then ``--repeats`` times for the CPU
milliseconds of one thread. The sizes of a series take ``--turns`` turns; the table shows the medians of all. "x^" is
the exponent, the slope of logarithms over the larger half of the sizes: 1 is linear; of time it is fitted to the least
values, which other work on the machine and its caches disturb less. In smaller sizes a fixed cost dominates; the
exponent of what takes no memory means nothing and is left out. --json keeps all numbers, with the spread.

What is measured: growth_training.py, growth_server.py.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from growth_server import SERVER
from growth_space import Size
from growth_training import TRAINING

from fedpartial.server.provenance import source_commit

SIZES = {
    "classes": (4, 8, 16, 32, 64, 100),
    "sites": (2, 4, 8, 16, 32, 64),
    "voxels": (1, 2, 4, 8),
    "methods": (2, 4, 8, 16),
}
LEAST_MIB = 1.0
"""Peaks below it are pages by chance."""
Workload = Callable[[Size, Path], Callable[[], object]]


def pages(field: str) -> float:
    """MiB that /proc says of this process: "VmRSS" now, "VmHWM" at the most."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def start_over() -> float:
    """Give free memory back, forget the peak so far; MiB that are left."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return pages("VmRSS")


def measure(workload: Workload, size: Size, repeats: int) -> dict:
    """Peak MiB of the first run, CPU milliseconds of the later ones."""
    with tempfile.TemporaryDirectory() as folder:
        work = workload(size, Path(folder))
        before = start_over()
        work()
        peak, times = pages("VmHWM") - before, []
        for _ in range(repeats):
            started = time.process_time()
            work()
            times.append(1000 * (time.process_time() - started))
    return {"times": times, "mib": peak}


def in_child(workload: Workload, size: Size, repeats: int) -> dict:
    """``measure`` in a fork of this process, which has one thread and little memory."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send(measure(workload, size, repeats)))
    child.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise SystemExit(f"{size}: the measuring process ended without a result (see above)") from None
    finally:
        child.join()


def series(workload: Workload, axis: str, values: Sequence[int], repeats: int, turns: int) -> list[dict]:
    """A point for each size of the axis; the smallest one runs here first, so that nothing is imported later."""
    sizes = [Size(**{axis: value}) for value in values]
    measure(workload, sizes[0], 1)
    found = zip(*([in_child(workload, size, repeats) for size in sizes] for _ in range(turns)), strict=True)
    return [_point(of_size) for of_size in found]


def _point(turns: Sequence[dict]) -> dict:
    times = [ms for turn in turns for ms in turn["times"]]
    peak = statistics.median(turn["mib"] for turn in turns)
    return {"ms": statistics.median(times), "least": min(times), "most": max(times), "mib": peak}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value over log size in the larger half."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def row(name: str, sizes: Sequence[int], points: Sequence[dict]) -> str:
    """One line of a table: both numbers of every size, both exponents."""
    cells = [f"{p['ms']:.3g} / {max(p['mib'], 0):.3g}" for p in points]
    slopes = [f"{exponent(sizes, [p['least'] for p in points]):.2f}"]
    peaks = [p["mib"] for p in points]
    slopes.append(f"{exponent(sizes, peaks):.2f}" if min(peaks[len(peaks) // 2 :]) > LEAST_MIB else "-")
    return "| " + " | ".join((name, *cells, *slopes)) + " |"


def head(axis: str, sizes: Sequence[int]) -> str:
    titles = (f"ms / MiB, {axis}:", *map(str, sizes), "time x^", "memory x^")
    return f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = TRAINING | SERVER
    parser.add_argument("--axis", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sizes", nargs="+", type=int, help="of the axis, in place of its own; voxels: powers of two")
    parser.add_argument("--only", nargs="+", choices=work, default=list(work), metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all numbers; what it holds already is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    print(f"commit {source_commit()}, {platform.machine()}, torch {torch.__version__}, one thread\n")
    for axis in arguments.axis:
        sizes = arguments.sizes or SIZES[axis]
        print(head(axis, sizes), flush=True)
        for name in arguments.only:
            workload, axes = work[name]
            if axis not in axes:
                continue
            points = series(workload, axis, sizes, arguments.repeats, arguments.turns)
            found.setdefault(axis, {})[name] = dict(zip(sizes, points, strict=True))
            print(row(name, sizes, points), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1))
        print()


if __name__ == "__main__":
    main()
