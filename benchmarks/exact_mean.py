"""The server's exact mean beside a plain one in float64 of updates that are all kept: CPU seconds and memory by sites.

    python benchmarks/exact_mean.py --sites 2 4 8 16 64 --parameters 31e6

Both take updates of random numbers one after the other. "plain" keeps them and adds share times update in float64,
tensor by tensor, when all are there: the arithmetic before commit 0dae3fa. Memory is what NumPy has allocated at most
(tracemalloc), without the update that is on its way. Both must agree to a unit of float32's last place.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np

from fedpartial.server.aggregation import RunningMean, one_weight

TENSORS = 64
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--parameters", type=float, default=31e6)
    parser.add_argument("--plain-up-to", type=int, default=16, help="sites whose updates this machine can keep")
    given = parser.parse_args()
    print("| sites | exact: s of an update | s of the mean | MiB | plain: s of all | MiB | numbers that differ |")
    print("|" + "---|" * 7)
    for sites in given.sites:
        print(row(sites, int(given.parameters), plain=sites <= given.plain_up_to), flush=True)


def row(sites: int, size: int, *, plain: bool) -> str:
    adding, ending, peak, mean = exact_mean(sites, size)
    start = f"| {sites} | {statistics.median(adding):.2f} (first {adding[0]:.2f}) | {ending:.2f} | {peak / MIB:.0f} |"
    if not plain:
        return f"{start} - | - | - |"
    seconds, kept, expected = plain_mean(sites, size)
    for name, value in expected.items():
        np.testing.assert_array_max_ulp(mean[name], value, 1)
    differ = sum(int((mean[name] != value).sum()) for name, value in expected.items())
    return f"{start} {seconds:.2f} | {kept / MIB:.0f} | {differ} |"


def updates(sites: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """The same ones each time, made when they are asked for."""
    for site in range(sites):
        rng = np.random.default_rng(site)
        yield {f"layer{i}": rng.standard_normal(size // TENSORS, dtype=np.float32) for i in range(TENSORS)}


def exact_mean(sites: int, size: int) -> tuple[list[float], float, int, dict[str, np.ndarray]]:
    """CPU seconds of each update and of the division, most bytes, the mean."""
    mean, seconds, most = RunningMean(), [], 0
    tracemalloc.start()
    for site, update in enumerate(updates(sites, size)):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        started = time.process_time()
        mean.add(str(site), update, one_weight(1.0))
        seconds.append(time.process_time() - started)
        own = before - sum(value.nbytes for value in update.values())
        most = max(most, own + tracemalloc.get_traced_memory()[1] - before)
        del update
    tracemalloc.reset_peak()
    started = time.process_time()
    found = mean.take()
    ending = time.process_time() - started
    most = max(most, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return seconds, ending, most, found


def plain_mean(sites: int, size: int) -> tuple[float, int, dict[str, np.ndarray]]:
    """CPU seconds, most bytes, the mean."""
    tracemalloc.start()
    kept = list(updates(sites, size))
    started = time.process_time()
    found = {}
    for name in kept[0]:
        total = np.zeros(kept[0][name].shape)
        for update in kept:
            total += 1 / sites * update[name].astype(np.float64)
        found[name] = total.astype(np.float32)
    seconds = time.process_time() - started
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, most, found


if __name__ == "__main__":
    main()
