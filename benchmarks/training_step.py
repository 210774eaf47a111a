"""Where a ConDistFL training step of the phantom preset spends its time on one CPU thread.

    python benchmarks/training_step.py

Each repetition is a process of its own; the table shows the median, least and most CPU milliseconds per part.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time

import torch

from fedpartial.methods.base import RoundContext
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.networks.build import build_network, training_outputs
from fedpartial.presets import PHANTOM

PARTS = ("forward", "teacher", "losses", "backward")
REPEATS, STEPS, WARM_UP = 5, 10, 3


def one_process() -> dict[str, float]:
    """Mean CPU milliseconds per part of a step."""
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
        times = [time.process_time()]
        outputs = training_outputs(student(image))
        times.append(time.process_time())
        with torch.no_grad():
            teacher_logits = teacher(image)
        times.append(time.process_time())
        loss = ConDistFL().loss(outputs, teacher_logits, labels, labelled, context).total
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        values = [1000 * (b - a) for a, b in itertools.pairwise(times)]
        if step >= WARM_UP:
            sums = {name: sums[name] + value / STEPS for name, value in zip(PARTS, values, strict=True)}
    return sums


def main() -> None:
    if sys.argv[1:] == ["once"]:
        print(json.dumps(one_process()))
        return
    found = []
    for _ in range(REPEATS):
        done = subprocess.run([sys.executable, __file__, "once"], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    total = sum(statistics.median(result[name] for result in found) for name in PARTS)
    print(f"{'part':10s}{'median ms':>10s}{'least':>8s}{'most':>8s}{'share':>8s}")
    for name in PARTS:
        values = [result[name] for result in found]
        median = statistics.median(values)
        print(f"{name:10s}{median:10.0f}{min(values):8.0f}{max(values):8.0f}{median / total:8.0%}")
    print(f"{'step':10s}{total:10.0f}")


if __name__ == "__main__":
    main()
