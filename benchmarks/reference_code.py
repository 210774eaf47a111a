"""The reference implementation that the benchmarks compare with: where it lies, which it is, how to call it.

It is the research example ConDist-FL of NVIDIA FLARE: the folder research/condist-fl of a checkout of the repository
NVFlare. None of its code is in this project. A benchmark takes ``--reference DIR`` and calls, in a process of its own,

- trainer.ConDistTrainer with losses and utils.get_model: training (``condistfl_step.py``),
- data.get_transforms, data.create_dataset, data.create_data_loader: data (``data_pipeline.py``),
- run_infer.py and run_validate.py, run as scripts: inference and metrics (``inference.py``).

Its modules have names like ``data`` and ``utils``, so they share no process with other code that has such names.
Besides this project's own dependencies it imports tqdm and prettytable. Where it names "cuda:0" and there is none,
``cuda_means`` says what is meant.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpartial.errors import ConfigError

MODULES = ("data", "losses", "trainer", "utils", "validator")
"""The top-level names under DIR/src."""
KNOWN = {"ceb361a12509915a31effe4aa5ddc0e5f39d6ead": "f3b7c1bffdfed90338d695a67b52a46d8bc4d28c"}
"""Git's name of the tree research/condist-fl/src -> commit of NVFlare that has it."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checkout of research/condist-fl; ``find_reference`` makes one that has been looked at."""

    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "src"

    def job_file(self, site: str, name: str) -> dict[str, Any]:
        """A JSON file of the job's app for a site (kidney, liver, pancreas, spleen), e.g. "config_task.json"."""
        return json.loads((self.folder / "jobs" / "condist" / site / "config" / name).read_text())

    def describe(self) -> str:
        """One line for a report: which version it is, by content and, in a checkout, by commit."""
        tree = git_tree(self.source).hex()
        commit = KNOWN.get(tree) or _commit(self.folder)
        which = f"commit {commit[:7]}" if commit else "of no known commit"
        return f"reference: NVFlare research/condist-fl, {which} (tree of src {tree[:7]})"

    def use(self) -> None:
        """Put its modules first on sys.path of this process, which must not have others of their names."""
        if taken := [name for name in MODULES if name in sys.modules]:
            raise RuntimeError(f"{taken[0]!r} is already imported; import the reference in a process of its own")
        sys.path.insert(0, str(self.source))


def add_option(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--reference DIR``; ``find_reference`` takes what was given."""
    parser.add_argument(
        "--reference", type=Path, required=required, metavar="DIR", help="research/condist-fl of a checkout of NVFlare"
    )


def find_reference(folder: Path) -> Reference:
    """The checkout in ``folder``; ConfigError when it is something else."""
    expected = ("src/trainer/condist.py", "src/losses.py", "jobs/condist/liver/config/config_task.json")
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            where="benchmark",
            field="--reference",
            got=f"{folder}, which has no {missing[0]}",
            expected="the folder research/condist-fl of a checkout of NVFlare",
            remedy="Clone NVIDIA/NVFlare, check out the commit of docs/performance.md and name that folder.",
        )
    return Reference(folder=folder.resolve())


@contextlib.contextmanager
def cuda_means(device: str) -> Iterator[None]:
    """Within it, code that moves tensors and modules to "cuda" or "cuda:0" moves them to ``device``."""
    import torch

    owners = (torch.Tensor, torch.nn.Module)
    before = [(owner, owner.to, owner.cuda) for owner in owners]
    for owner, to, _ in before:
        owner.to = _elsewhere(to, device)
        owner.cuda = lambda self, *_, to=to, **__: to(self, device)
    try:
        yield
    finally:
        for owner, to, cuda in before:
            owner.to, owner.cuda = to, cuda


def _elsewhere(to, device: str):
    def moved(self, *args, **options):
        args = tuple(device if _is_cuda(value) else value for value in args)
        options = {name: device if _is_cuda(value) else value for name, value in options.items()}
        return to(self, *args, **options)

    return moved


def _is_cuda(value: object) -> bool:
    import torch

    return isinstance(value, (str, torch.device)) and str(value).startswith("cuda")


def git_tree(folder: Path) -> bytes:
    """Git's name (20 bytes) of a folder of plain files, without what Python caches there."""
    rows = []
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            rows.append((f"{path.name}/", b"40000", path.name, git_tree(path)))
        elif path.is_file():
            rows.append((path.name, b"100644", path.name, _git_object(b"blob", path.read_bytes())))
    return _git_object(
        b"tree", b"".join(mode + b" " + name.encode() + b"\0" + sha for _, mode, name, sha in sorted(rows))
    )


def _git_object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content, usedforsecurity=False).digest()


def _commit(folder: Path) -> str:
    """The commit of the checkout, or nothing where it is none."""
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()
