"""The Lovász loss of the package beside a textbook implementation: time, values and gradients.

    python benchmarks/lovasz.py                        # 128 x 128 x 64 voxels, 6 classes, one thread
    python benchmarks/lovasz.py --threads 2

Forward and backward from the logits, everything annotated, at three stages of training (random, half-trained and
well-trained logits). The two run in turns; the table shows the medians of CPU milliseconds (other work on the machine
disturbs them less than the clock's), of the softmax and its backward pass alone, which both need, and the ratios by CPU
time and by the clock. Values and gradients are compared with the textbook in float64; ``sort`` is what one np.sort of
as many 64-bit integers takes, the floor of the package's way.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedpartial.losses.lovasz import marginal_lovasz

STAGES = {"random": (0.0, 1.0), "half-trained": (4.0, 2.0), "well-trained": (16.0, 2.5)}
"""Logit of the true class above the others, and standard deviation of the noise."""


def textbook(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax, and for each class that occurs: errors, sort, differences of the Jaccard loss, dot product."""
    losses = []
    for channel, p in enumerate(logits.softmax(dim=1).unbind(1)):
        foreground = (labels == channel).flatten().to(p.dtype)
        if foreground.sum() == 0:
            continue
        errors, order = (foreground - p.flatten()).abs().sort(descending=True)
        losses.append(torch.dot(errors, jaccard_gradient(foreground[order])))
    return torch.stack(losses).mean()


def jaccard_gradient(foreground: Tensor) -> Tensor:
    """Berman et al. 2018, algorithm 1."""
    total = foreground.sum()
    jaccard = 1 - (total - foreground.cumsum(0)) / (total + (1 - foreground).cumsum(0))
    return torch.cat((jaccard[:1], jaccard[1:] - jaccard[:-1]))


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    everything = torch.ones(logits.shape[:2], dtype=torch.bool)
    return marginal_lovasz(logits.flatten(2).softmax(dim=1), labels.flatten(1), everything)


def softmax_only(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1)[:, 0].mean()


def batch(stage: str, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    """Logits (1, C, *S) and labels (1, *S): balls of growing size on background."""
    signal, noise = STAGES[stage]
    generator = torch.Generator().manual_seed(0)
    grid = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in shape), indexing="ij")
    labels = torch.zeros(shape, dtype=torch.long)
    for channel in range(1, classes):
        centre = [size * float(torch.rand((), generator=generator)) for size in shape]
        distance = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)).sqrt()
        labels[distance < (4 + 4 * channel) * shape[0] / 128] = channel
    truth = torch.nn.functional.one_hot(labels, classes).movedim(-1, 0)
    logits = signal * truth + noise * torch.randn(classes, *shape, generator=generator)
    return logits[None], labels[None]


def run(loss: Callable, logits: Tensor, labels: Tensor) -> tuple[tuple[float, float], Tensor, Tensor]:
    """(CPU, clock) milliseconds, value, gradient."""
    logits = logits.detach().requires_grad_()
    start = time.process_time(), time.perf_counter()
    value = loss(logits, labels)
    value.backward()
    end = time.process_time(), time.perf_counter()
    return tuple(1000 * (b - a) for a, b in zip(start, end, strict=True)), value.detach(), logits.grad


def medians(logits: Tensor, labels: Tensor, repeats: int) -> list[tuple[float, float]]:
    """(CPU, clock) of textbook, ours and the softmax alone, run in turns after one warm-up each."""
    losses = (textbook, ours, softmax_only)
    turns = [[run(loss, logits, labels)[0] for loss in losses] for _ in range(repeats + 1)][1:]
    return [tuple(statistics.median(t) for t in zip(*times, strict=True)) for times in zip(*turns, strict=True)]


def floor(num_voxels: int, classes: int) -> float:
    """CPU milliseconds of sorting as many 64-bit integers as there are voxels, for each class."""
    keys = np.random.default_rng(0).integers(0, 2**62, num_voxels)
    start = time.process_time()
    for _ in range(classes):
        np.sort(keys)
    return 1000 * (time.process_time() - start)


def differences(logits: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Of our value and gradient (largest difference over largest entry), and of the textbook's gradient, in float32."""
    _, value, exact = run(textbook, logits.double(), labels)
    _, found, gradient = run(ours, logits, labels)
    _, _, plain = run(textbook, logits, labels)
    largest = exact.abs().max()
    of_gradients = [((g - exact).abs().max() / largest).item() for g in (gradient, plain)]
    return abs(found - value).item(), *of_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 128, 64))
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    least = floor(math.prod(arguments.shape), arguments.classes)
    print(f"{arguments.shape}, {arguments.classes} classes, {arguments.threads} threads, torch {torch.__version__}")
    print(
        f"sort: {least:.0f} ms. Differences to the float64 textbook: value, gradient, gradient of the float32 textbook"
    )
    print(f"{'stage':14s}{'textbook':>10s}{'ours':>8s}{'softmax':>9s}{'CPU ratio':>11s}{'clock':>7s}   differences")
    for stage in STAGES:
        logits, labels = batch(stage, tuple(arguments.shape), arguments.classes)
        slow, fast, shared = medians(logits, labels, arguments.repeats)
        found = ", ".join(f"{value:.1e}" for value in differences(logits, labels))
        times = f"{slow[0]:10.0f}{fast[0]:8.0f}{shared[0]:9.0f}{slow[0] / fast[0]:11.1f}{slow[1] / fast[1]:7.1f}"
        print(f"{stage:14s}{times}   {found}")


if __name__ == "__main__":
    main()
