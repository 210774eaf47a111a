"""One side of ``data_pipeline.py``: a process that prepares cases and draws batches, each when it is told to.

    python data_process.py '{"side": "ours", "folder": ..., "cases": 4, ...}'     (started by data_pipeline.py)

Every line on stdin is a command in JSON, every answer a line of JSON on stdout. One thread. A batch counts when it is
what the training loop takes: a tensor of images and one of labels.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from large_phantom import site_of
from reference_code import find_reference
from torch import Tensor

STATUS = {"RssAnon": "own", "RssFile": "files"}


class Side:
    """What both sides have: a folder to work in, and a stream of batches."""

    def __init__(self, spec: dict, scratch: Path):
        self.spec, self.scratch, self.stream = spec, scratch, iter(())

    def site(self, cases: int):
        """A new folder of links to the files of that many cases."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        return site_of(Path(self.spec["folder"]), cases, self.spec["distinct"], folder)

    def draw(self, count: int) -> dict:
        """Take ``count`` batches: how many patches they had, and which part of them shows something labelled."""
        patches = labelled = 0
        for _ in range(count):
            image, label = next(self.stream)
            patches, labelled = patches + len(image), labelled + int(label.flatten(1).any(1).sum())
        return {"patches": patches, "labelled": labelled}

    def profile(self, count: int) -> dict:
        """Draw batches with a clock around each part of the pipeline: CPU seconds in each, without parts inside."""
        clock = Clock()
        for name, owner, attribute in self.parts():
            setattr(owner, attribute, clock.around(name, getattr(owner, attribute)))
        return {**self.draw(count), "parts": clock.spent}


class Ours(Side):
    """This project: prepare_cases, and BatchStream as the trainer iterates it."""

    def prepare(self) -> None:
        from fedpartial.data.store import prepare_cases
        from fedpartial.presets import get_preset

        self.preset = get_preset("abdomen")
        site = self.site(self.spec["distinct"])
        self.cases = prepare_cases(site, self.preset, splits=("training",)).training

    def start(self) -> None:
        from fedpartial.data.loader import BatchStream
        from fedpartial.data.sampler import PatchSampler

        cases = [self._copy(number) for number in range(self.spec["cases"])]
        sampler = PatchSampler(cases, self.preset, seed=self.spec["seed"], site="liver")
        stream = BatchStream(sampler, start=0, stop=10**6, num_workers=self.spec["workers"])
        self.stream = ((batch.image, batch.label) for batch in stream)

    def _copy(self, number: int):
        """A prepared case as files of its own."""
        case = self.cases[number % len(self.cases)]
        if number < len(self.cases):
            return case
        folder = self.scratch / f"case-{number}"
        shutil.copytree(case.folder, folder)
        return replace(case, folder=folder, index=number)

    def parts(self) -> Iterator[tuple[str, object, str]]:
        from fedpartial.data import intensities, loader, sampler

        yield "cut", sampler, "cut_patch"
        yield "rotation and zoom", sampler, "cut_turned"
        for name in ("add_noise", "blur", "scale", "scale_in_range", "lower_resolution", "gamma", "inverse_gamma"):
            yield name.replace("_", " "), intensities, name
        yield "flips, batch of changed patches", loader, "augment"
        yield "places, batch of cut patches", sampler.PatchSampler, "batch"
        yield "rest", loader.StepDataset, "__getitem__"


class Reference(Side):
    """The reference: its data set, cached as its jobs say, and its data loader."""

    def __init__(self, spec: dict, scratch: Path):
        super().__init__(spec, scratch)
        reference = find_reference(Path(spec["reference"]))
        reference.use()
        self.config = reference.job_file("liver", "config_data.json")

    def prepare(self) -> None:
        from data.dataset import create_dataset

        site = self.site(self.spec["cases"])
        config = {**self.config, "data_root": str(site.data_root), "data_list": str(site.datalist)}
        self.dataset = create_dataset("", config, "training", "train")
        self.dataset.transform.set_random_state(seed=self.spec["seed"])

    def start(self) -> None:
        from data.data_loader import create_data_loader

        size = self.config["data_loader"]["batch_size"]
        loader = create_data_loader(self.dataset, size, num_workers=self.spec["workers"], shuffle=True)
        self.stream = ((batch["image"], batch["label"]) for batch in _endless(loader))

    def parts(self) -> Iterator[tuple[str, object, str]]:
        for transform in self.dataset.transform.transforms:
            kind = type(transform)
            yield kind.__name__, kind, "__call__"


def _endless(loader) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from loader


class Clock:
    """CPU seconds by name; of nested parts each has its own time only."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.inner = [0.0]

    def around(self, name: str, call: Callable) -> Callable:
        def timed(*arguments, **options):
            begun = time.process_time()
            self.inner.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                whole = time.process_time() - begun
                self.spent[name] = self.spent.get(name, 0.0) + whole - self.inner.pop()
                self.inner[-1] += whole

        return timed


def memory() -> dict[str, float]:
    """MiB that this process holds: of its own, and pages of files, which the system can take back. Maps and files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = {name: int(fields[key].split()[0]) / 1024 for key, name in STATUS.items()}
    return {
        **held,
        "maps": len(Path("/proc/self/maps").read_text().splitlines()),
        "open": len(os.listdir("/proc/self/fd")),
    }


def main() -> None:
    spec = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")  # stdout belongs to the answers: what libraries print goes to stderr
    os.dup2(2, 1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=spec["scratch"]) as scratch, contextlib.suppress(KeyboardInterrupt):
        side = {"ours": Ours, "reference": Reference}[spec["side"]](spec, Path(scratch))
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            wall, cpu = time.monotonic(), time.process_time()
            found = memory() if name == "memory" else getattr(side, name)(*arguments) or {}
            times = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
            print(json.dumps({**times, **found}), file=out, flush=True)


if __name__ == "__main__":
    main()
