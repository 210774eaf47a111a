"""Whole predictions, from a CT file to a label map on its own grid: this project, the reference's script, plain MONAI.

    python benchmarks/inference.py --reference DIR
    python benchmarks/inference.py --reference DIR --stand-in --repeats 3
    python benchmarks/inference.py --reference DIR --ways ours reference-bfloat16 --ct ct.nii.gz --keep FOLDER

The ways are in ``inference_ways.py``, CT and weights in ``inference_case.py``. Each run is a process of its own; runs
alternate. A row has the median of CPU seconds (least to most), those around the network, clock seconds, volumes per
minute of clock, the peak of memory (ru_maxrss) and what the process had before it read anything, which is Python with
torch; then the ratio to ours, pair by pair. --stand-in puts one layer in the network's place: what is left is
everything around the network, in seconds instead of minutes. --keep holds CT, models and label maps for the next time.
The last table compares label maps with ours: voxels that differ, and Dice of each class between the two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import inference_case
import numpy as np
import reference_code
import torch
from inference_ways import WAYS

from fedpartial.presets import get_preset

Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reference_code.add_option(parser)
    preset = get_preset(inference_case.PRESET)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[name for name in WAYS if name != "monai-nearest"])
    parser.add_argument("--ct", type=Path, help="a NIfTI file in place of the synthetic one")
    parser.add_argument("--patch", type=int, nargs=3, default=preset.patch, help="window; smaller for quick trials")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stand-in", action="store_true", help="one layer in place of the network")
    parser.add_argument("--training-steps", type=int, default=40, help="of the network, before anything is measured")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for CT, models and label maps")
    given = parser.parse_args()
    print(reference_code.find_reference(given.reference).describe())
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = (given.keep or Path(temporary)).resolve()
        prepare(given)
        runs: Runs = {way: [] for way in given.ways}
        for _ in range(given.repeats):
            for way in given.ways:
                runs[way].append(run(way, given))
        print_costs(runs)
        print_labels(given)


def prepare(given: argparse.Namespace) -> None:
    """CT and models, where they are not there yet."""
    given.folder.mkdir(parents=True, exist_ok=True)
    given.ct = (given.ct or given.folder / "ct.nii.gz").resolve()
    if not given.ct.exists():
        inference_case.make_ct(given.ct)
    if not (given.folder / inference_case.MODEL).exists():
        inference_case.make_model(given.folder, given.training_steps)
    if not (given.folder / inference_case.TRACED).exists():
        inference_case.make_traced(given.folder, given.reference)


def run(way: str, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("inference_ways.py")), way]
    command += ["--folder", str(given.folder), "--ct", str(given.ct), "--patch", *map(str, given.patch)]
    command += ["--reference", str(given.reference), "--threads", str(given.threads)]
    done = subprocess.run(command + ["--stand-in"] * given.stand_in, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)


def print_costs(runs: Runs) -> None:
    print_row("way", "windows", "CPU s", "around the network", "clock s", "volumes/min", "peak MiB", "of it at start")
    print_row(*["---"] * 8)
    for way, found in runs.items():
        around = [one["cpu"] - one["network_cpu"] for one in found]
        clock = statistics.median(one["seconds"] for one in found)
        memory = (f"{statistics.median(one[name] for one in found):.0f}" for name in ("peak", "start"))
        spent = (spread([one["cpu"] for one in found]), spread(around))
        print_row(way, f"{found[0]['windows']:.0f}", *spent, f"{clock:.1f}", f"{60 / clock:.2f}", *memory)
    if "ours" in runs:
        print_ratios(runs)


def print_ratios(runs: Runs) -> None:
    print()
    print_row("of ours", "CPU s", "around the network", "peak MiB", "peak above the start")
    print_row(*["---"] * 5)
    parts = (
        lambda one: one["cpu"],
        lambda one: one["cpu"] - one["network_cpu"],
        lambda one: one["peak"],
        lambda one: one["peak"] - one["start"],
    )
    for way, found in runs.items():
        pairs = list(zip(found, runs["ours"], strict=True))
        print_row(way, *(spread([part(other) / part(own) for other, own in pairs], 2) for part in parts))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least and most where there are several."""
    median, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({low} to {high})"


def print_labels(given: argparse.Namespace) -> None:
    """Every other way's last label map against ours."""
    classes = get_preset(inference_case.PRESET).label_space.classes
    maps = {way: read_labels(given.folder / f"{way}.nii.gz") for way in given.ways}
    if "ours" not in maps:
        return
    print()
    print_row("labels against ours", "voxels that differ", *classes)
    print_row(*["---"] * (2 + len(classes)))
    for way in (name for name in maps if name != "ours"):
        dices = (dice(maps[way] == channel, maps["ours"] == channel) for channel in range(1, 1 + len(classes)))
        print_row(way, f"{(maps[way] != maps['ours']).mean():.4%}", *dices)


def read_labels(path: Path) -> np.ndarray:
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj).astype(np.uint8)


def dice(one: np.ndarray, other: np.ndarray) -> str:
    size = np.count_nonzero(one) + np.count_nonzero(other)
    return f"{2 * np.count_nonzero(one & other) / size:.4f}" if size else "none"


def print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
