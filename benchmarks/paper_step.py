"""Time and memory of a training step with the presets of the papers, on this machine.

    python benchmarks/paper_step.py abdomen segviz --patches 1 2

Every line is a process of its own that trains a few steps of the preset's method (LocalTrainer, as at a site) on one
synthetic case: whole steps with batch, augmentation, losses and optimiser; the first one is not timed. --patches
gives numbers of patches in a batch in place of the preset's, for machines that do not hold it; time and memory grow
with them. Memory is the process's largest resident size on a CPU, and what torch has reserved on a GPU. CPU seconds
add those of all threads: they tell more than the clock where other work shares the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedpartial.data.stored_case import StoredCase, write_case
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedmenu import FedMenu
from fedpartial.methods.margexc import MargExc
from fedpartial.methods.mmds import Mmds
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.split import is_shared
from fedpartial.presets import Preset, get_preset
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.precision import select_precision
from fedpartial.training.schedule import Schedule

THREE = {"dice": 1.0, "ce": 1.0, "lovasz": 1.0}
METHODS: dict[str, Callable] = {
    "abdomen": ConDistFL,
    "segviz": SegViz,
    "psmos": lambda: MargExc(marginal=THREE, exclusion=THREE),
    "menu": FedMenu,
    "mmds": Mmds,
    "mmds_swin": Mmds,
}
"""The method whose paper has the preset, as in its job."""
OWN_HEADS = ("segviz", "mmds", "mmds_swin")
CLASSES = ("liver", "liver_tumor")
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", choices=METHODS, metavar="PRESET", help=", ".join(METHODS))
    parser.add_argument("--patches", type=int, nargs="+", default=[0], help="patches in a batch; 0 is the preset's own")
    parser.add_argument("--steps", type=int, default=3, help="steps that count, after one that does not; 0: that one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.presets[0], given.patches[0], given.steps, given.device)))
        return
    heading = (
        "preset",
        "method",
        "patch",
        "patches in a batch",
        "parameters",
        "s (least to most)",
        "CPU s",
        "GiB",
        "device",
    )
    print(_line(heading), _line(["---"] * len(heading)), sep="\n")
    for preset in given.presets:
        for patches in given.patches:
            print(_row(preset, _in_a_process(preset, patches, given)), flush=True)


def _in_a_process(preset: str, patches: int, given: argparse.Namespace) -> dict:
    options = ["--patches", str(patches), "--steps", str(given.steps), "--device", given.device, "--child"]
    done = subprocess.run([sys.executable, __file__, preset, *options], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": f"exit code {done.returncode}"}


def _row(preset: str, found: dict) -> str:
    if "error" in found:
        return _line((preset, f"did not end well: {found['error']} (-9: out of memory)"))
    wall, cpu = found["seconds"], found["cpu_seconds"]
    return _line(
        (
            preset,
            found["method"],
            " x ".join(map(str, get_preset(preset).patch)),
            found["patches"],
            f"{found['parameters'] / 1e6:.1f} M",
            f"{statistics.median(wall):.1f} ({min(wall):.1f} to {max(wall):.1f})",
            f"{statistics.median(cpu):.1f}",
            f"{found['bytes'] / GIB:.1f}",
            f"{found['device']}, {found['precision']}",
        )
    )


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def measure(name: str, patches: int, steps: int, device: str) -> dict:
    """Seconds of each step but the first, on the clock and of all threads, and the most memory."""
    preset, method, precision = _with_patches(get_preset(name), patches), METHODS[name](), select_precision(device)
    times = [(time.monotonic(), time.process_time())]
    with tempfile.TemporaryDirectory() as folder:
        trainer = LocalTrainer(
            preset=preset,
            method=method,
            cases=[synthetic_case(Path(folder), preset)],
            site="liver",
            seed=0,
            schedule=Schedule(num_rounds=2, local_steps=1 + steps),
            precision=precision,
            state_dir=Path(folder) / "state",
            exchange="trunk" if name == "segviz" else "all",
            head_classes=_own_classes(preset) if name in OWN_HEADS else None,
            on_step=lambda step, loss: times.append((time.monotonic(), time.process_time())),
        )
        state = canonical_state(trainer.network)
        shared = {key: value.clone() for key, value in state.items() if is_shared(key, trainer.exchange)}
        trainer.run_round(shared, 0, lambda: False)
    wall, cpu = np.diff(times, axis=0)[1 if steps else 0 :].T.tolist()
    return {
        "method": type(method).__name__,
        "patches": preset.volumes_per_batch * preset.patches_per_volume,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "seconds": wall,
        "cpu_seconds": cpu,
        "bytes": _most_memory(precision.device),
        "device": _name(precision.device),
        "precision": precision.name,
    }


def _with_patches(preset: Preset, patches: int) -> Preset:
    return replace(preset, volumes_per_batch=patches, patches_per_volume=1) if patches else preset


def _own_classes(preset: Preset) -> tuple[str, ...]:
    return tuple(name for name in CLASSES if name in preset.label_space.classes)


def synthetic_case(folder: Path, preset: Preset) -> StoredCase:
    """Noise with a block of each class of a liver site, on a grid somewhat larger than the patch."""
    space, shape = preset.label_space, tuple(n + 16 for n in preset.patch)
    names = _own_classes(preset)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    label = np.zeros(shape, np.uint8)
    for depth, name in enumerate(names, start=3):
        label[tuple(slice(n // depth, n - n // depth) for n in shape)] = space.index(name)
    case = folder / "case"
    case.mkdir()
    write_case(case, image, label, {})
    rows = json.loads((case / "meta.json").read_text())["foreground_rows"]
    return StoredCase(
        folder=case,
        index=0,
        split="training",
        labelled=space.labelled_mask(names),
        affine=np.diag([*preset.spacing_mm, 1.0]),
        original_shape=shape,
        original_affine=np.eye(4),
        image_path=case,
        label_path=case,
        foreground_rows={int(channel): tuple(span) for channel, span in rows.items()},
    )


def _most_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
