"""Where a ConDistFL training step of the phantom preset spends its time, with and without keeping freed memory.

    python benchmarks/training_step.py

One CPU thread. Each setting is a process of its own (malloc's settings cannot be taken back); the two alternate, the
table shows medians of CPU milliseconds per part and page faults per step.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from fedpartial.methods.base import RoundContext
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.networks.dynunet import build_network, heads
from fedpartial.presets import PHANTOM
from fedpartial.training.memory import keep_freed_memory

PARTS = ("forward", "teacher", "losses", "backward", "faults")
REPEATS, STEPS, WARM_UP = 5, 10, 3


def one_process() -> dict[str, float]:
    """Mean CPU milliseconds per part and page faults per step."""
    torch.set_num_threads(1)
    student = build_network(PHANTOM, seed=0).to(memory_format=torch.channels_last_3d)
    teacher = build_network(PHANTOM, seed=1).to(memory_format=torch.channels_last_3d).eval()
    batch = PHANTOM.volumes_per_batch * PHANTOM.patches_per_volume
    image = torch.randn(batch, 1, *PHANTOM.patch)
    labels = torch.randint(0, 3, (batch, *PHANTOM.patch))
    labelled = torch.zeros(batch, PHANTOM.label_space.num_channels, dtype=torch.bool)
    labelled[:, 1:3] = True
    groups = torch.from_numpy(PHANTOM.label_space.group_matrix())
    context = RoundContext(round_number=3, num_rounds=8, groups=groups)
    sums = dict.fromkeys(PARTS, 0.0)
    for step in range(WARM_UP + STEPS):
        times, faults = [time.process_time()], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        outputs = heads(student(image), PHANTOM.network.num_outputs)
        times.append(time.process_time())
        with torch.no_grad():
            teacher_logits = teacher(image)
        times.append(time.process_time())
        loss = ConDistFL().loss(outputs, teacher_logits, labels, labelled, context).total
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        values = [1000 * (b - a) for a, b in itertools.pairwise(times)]
        values.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
        if step >= WARM_UP:
            sums = {name: sums[name] + value / STEPS for name, value in zip(PARTS, values, strict=True)}
    return sums


def main() -> None:
    if len(sys.argv) > 1:
        if sys.argv[1] == "keep":
            keep_freed_memory()
        print(json.dumps(one_process()))
        return
    found: dict[str, list[dict]] = {"keep": [], "default": []}
    for _ in range(REPEATS):
        for setting, results in found.items():
            done = subprocess.run([sys.executable, __file__, setting], capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout))
    print(f"{'malloc':8s}" + "".join(f"{name:>10s}" for name in PARTS) + f"{'sum ms':>10s}")
    for setting, results in found.items():
        medians = [statistics.median(r[name] for r in results) for name in PARTS]
        print(f"{setting:8s}" + "".join(f"{m:10.0f}" for m in medians) + f"{sum(medians[:-1]):10.0f}")


if __name__ == "__main__":
    main()
