"""One side of ``condistfl_step.py``: a process that trains ConDistFL steps, each when it is told to.

    python step_process.py '{"side": "ours", "preset": "abdomen", ...}'     (started by condistfl_step.py)

It trains one round the way a site does, this project's LocalTrainer.run_round or the reference's ConDistTrainer.run,
but for the batches: they come from a ``Gate``, which always has the same one in memory and waits before each for a line
on stdin, "step", "profile" or "end". What happens between two batches is one step, whole: forward, teacher, losses,
backward, clipping, optimiser, and what the loop does besides. The answer is a line of JSON on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

CLASSES = ("liver", "liver_tumor")


class Ended(Exception):
    """No further step is wanted."""


class Gate:
    """Iterates over one batch for ever and measures the time from each batch to the next request."""

    def __init__(self, batch: object, device: torch.device, answer: Callable[[dict], None]):
        self.batch, self.device, self.answer = batch, device, answer
        self.command, self.begun, self.profiler = None, (0.0, 0.0), None

    def __iter__(self) -> Gate:
        return self

    def __next__(self) -> object:
        if self.command:
            self.answer(self._finish())
        self.command = sys.stdin.readline().strip()
        if self.command not in ("step", "profile"):
            raise Ended
        if self.command == "profile":
            from step_profile import StepProfiler

            self.profiler = StepProfiler(self.device)
        self.begun = self._clocks()
        return self.batch

    def _clocks(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic(), time.process_time()

    def _finish(self) -> dict:
        wall, cpu = (now - then for now, then in zip(self._clocks(), self.begun, strict=True))
        found = {"seconds": wall, "cpu_seconds": cpu, "peak": _peak(self.device)}
        if self.profiler:
            found["profile"] = self.profiler.finish()
            self.profiler = None
        return found


def main() -> None:
    spec = json.loads(sys.argv[1])
    # stdout belongs to the answers: what libraries print goes to stderr.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict) -> None:
        print(json.dumps(found), file=out, flush=True)

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    with contextlib.suppress(Ended):
        {"ours": train_ours, "reference": train_reference}[spec["side"]](spec, answer)


def train_ours(spec: dict, answer: Callable[[dict], None]) -> None:
    """A round of LocalTrainer as at a site that annotates liver and its tumours."""
    import monai.networks.nets  # noqa: F401
    from paper_step import synthetic_case

    from fedpartial.data.sampler import Batch
    from fedpartial.methods.condistfl import ConDistFL
    from fedpartial.networks.canonical import canonical_state
    from fedpartial.presets import get_preset
    from fedpartial.training import local_trainer
    from fedpartial.training.precision import Precision, select_precision
    from fedpartial.training.schedule import Schedule

    precision = select_precision(spec["device"])
    if spec["precision"] != "auto":
        precision = Precision(device=precision.device, dtype=getattr(torch, spec["precision"]))
    preset = replace(get_preset(spec["preset"]), patch=tuple(spec["patch"]), patches_per_volume=1)
    preset = replace(preset, volumes_per_batch=spec["batch"])
    start = _resident()
    image, label = _image_and_label(spec)
    labelled = torch.from_numpy(preset.label_space.labelled_mask(CLASSES)).expand(spec["batch"], -1).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        trainer = local_trainer.LocalTrainer(
            preset=preset,
            method=_Marked(ConDistFL()),
            cases=[synthetic_case(Path(folder), preset)],
            site="liver",
            seed=0,
            schedule=Schedule(num_rounds=preset.num_rounds, local_steps=preset.local_steps),
            precision=precision,
            state_dir=Path(folder) / "state",
        )
        # Its own sampler says of what type a label is.
        batch = Batch(image=image, label=label.to(trainer.sampler.batch(0).label.dtype), labelled=labelled)
        gate = Gate(batch.pin_memory() if precision.device.type == "cuda" else batch, precision.device, answer)
        local_trainer.BatchStream = lambda *_, **__: gate
        answer(_begin(start, trainer.network, precision.name, precision.device))
        trainer.run_round(canonical_state(trainer.network), 0, lambda: False)


class _Marked:
    """A method whose loss has a name in a profile."""

    def __init__(self, method: object):
        self._method = method

    def __getattr__(self, name: str) -> object:
        return getattr(self._method, name)

    def loss(self, *args: object) -> object:
        with torch.profiler.record_function("losses"):
            return self._method.loss(*args)


def train_reference(spec: dict, answer: Callable[[dict], None]) -> None:
    """A round of the reference's trainer with its own configuration of the liver site."""
    from reference_code import cuda_means, find_reference

    reference = find_reference(Path(spec["folder"]))
    reference.use()
    import torch._dynamo  # the first optimiser imports it; it shall count as an import
    from trainer import ConDistTrainer
    from utils.get_model import get_model

    from fedpartial.training.precision import select_precision

    device = select_precision(spec["device"]).device
    config = reference.job_file("liver", "config_task.json")
    # Its half precision, which its configuration asks for, is float16 with loss scaling on CUDA and nothing elsewhere.
    own = spec["precision"] in ("as written", "float16")
    config["training"]["use_half_precision"] &= own
    start = _resident()
    image, label = _image_and_label(spec)
    batch = {"image": image, "label": label[:, None].float()}
    torch.manual_seed(0)
    model = get_model(config["model"]).to(device)
    trainer = ConDistTrainer(config)
    if spec["precision"] == "bfloat16":
        trainer.training_step = _in_bfloat16(trainer.training_step, device)
    name = ("float16" if device.type == "cuda" else "float32") if own else spec["precision"]
    answer(_begin(start, model, name, device))
    with cuda_means(str(device)):
        trainer.run(model, Gate(batch, device, answer), num_steps=10**6)


def _in_bfloat16(step: Callable, device: torch.device) -> Callable:
    """The reference's step (forward and losses, as under its own autocast) in a precision its code lacks."""

    def under_autocast(*args: object, **options: object) -> object:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return step(*args, **options)

    return under_autocast


def _image_and_label(spec: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (N 1 H W D) and a block of liver with a tumour in it (N H W D): the same for both sides."""
    shape = tuple(spec["patch"])
    image = torch.randn(spec["batch"], 1, *shape, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(spec["batch"], *shape, dtype=torch.long)
    for channel, part in ((1, 4), (2, 3)):
        label[(slice(None), *(slice(n // part, n - n // part) for n in shape))] = channel
    return image, label


def _begin(start: int, network: torch.nn.Module, precision: str, device: torch.device) -> dict:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    on_gpu = device.type == "cuda"
    return {"start": start, "parameters": parameters, "precision": precision, "device": where, "on_gpu": on_gpu}


def _resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
