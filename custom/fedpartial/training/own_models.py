"""What a site keeps between jobs, in a folder of its own: its local model, the latest global one, unfinished training.

The folder's name is ``model_dir`` of the site file, the federation's and the site's. Only the site's own user may read
it. Nothing in it leaves the site but the local model, and that only as the answer to a task.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fedpartial.errors import ConfigError
from fedpartial.training.local_trainer import TrainingStopped
from fedpartial.training.model_file import ModelInfo, load_model, save_model

LOCAL_MODEL, GLOBAL_MODEL = "local_model.safetensors", "global_model.safetensors"
TRAINING = "training"
PRIVATE = 0o700
LOOK_SECONDS = 0.2
ABANDONED_SECONDS = 7 * 24 * 3600
"""Unfinished training by another recipe that nobody has gone on with for so long is of no more use."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A local model as it lies in the site's folder: canonical tensors on the CPU, and where they come from."""

    weights: dict[str, Tensor]
    info: ModelInfo


class OwnModels:
    """The folder of one site in one federation."""

    def __init__(self, model_dir: Path, federation: str, site: str):
        self.model_dir, self.folder, self.site = model_dir, model_dir / federation / site, site

    @property
    def local(self) -> Path:
        return self.folder / LOCAL_MODEL

    @property
    def global_model(self) -> Path:
        return self.folder / GLOBAL_MODEL

    def training_dir(self, recipe: str) -> Path:
        """Where training by this recipe leaves its state, so that it goes on after an interruption."""
        return self.folder / TRAINING / recipe

    def trained_by(self, recipe: str) -> Kept | None:
        """The local model, where this very recipe has made it; one that cannot be read is as good as none."""
        if not self.local.exists():
            return None
        try:
            weights, info = load_model(self.local)
        except ConfigError as error:
            log.warning("site %s: the local model cannot be read and is trained again: %s", self.site, error.got)
            return None
        if info.recipe != recipe:
            return None
        return Kept(weights={name: torch.from_numpy(value) for name, value in weights.items()}, info=info)

    @contextmanager
    def training_alone(self, recipe: str, stop: Callable[[], bool]) -> Iterator[Path]:
        """The right to train in this folder, and the folder of the recipe's state.

        Another job of this site waits, until it is asked to stop (TrainingStopped).
        """
        folder = self.training_dir(recipe)
        self.make_folder(self.folder)
        lock = FileLock(f"{self.folder}.lock")
        _acquire(lock, self.site, stop)
        try:
            self.make_folder(folder)
            yield folder
        finally:
            lock.release()

    def keep_local(self, weights: Mapping[str, Tensor], info: ModelInfo) -> None:
        """Replace the local model; its training is finished, and abandoned training is of no more use."""
        self.make_folder(self.folder)
        save_model(self.local, {name: tensor.numpy() for name, tensor in weights.items()}, info)
        for folder in (self.folder / TRAINING).glob("*"):
            if folder.name == info.recipe or _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # of another training that goes on, or never begun
            (self.folder / TRAINING).rmdir()

    def keep_global(self, weights: Mapping[str, Tensor], info: ModelInfo) -> None:
        self.make_folder(self.folder)
        save_model(self.global_model, {name: tensor.numpy() for name, tensor in weights.items()}, info)

    def make_folder(self, folder: Path) -> None:
        """A folder below model_dir with those between, closed to other users where they are new."""
        between = [path for path in folder.parents if path.is_relative_to(self.model_dir)]
        self.model_dir.parent.mkdir(parents=True, exist_ok=True)
        for path in (*reversed(between), folder):
            path.mkdir(mode=PRIVATE, exist_ok=True)


def _acquire(lock: FileLock, site: str, stop: Callable[[], bool]) -> None:
    waits = False
    while True:
        try:
            lock.acquire(blocking=False)
            return
        except Timeout:
            if not waits:
                log.info("site %s: waiting for another job that trains this site's model", site)
            waits = True
        if stop():
            raise TrainingStopped("stopped while another job trained this site's model")
        time.sleep(LOOK_SECONDS)


def _is_abandoned(folder: Path) -> bool:
    changed = max(path.stat().st_mtime for path in (folder, *folder.glob("*")))
    return time.time() - changed > ABANDONED_SECONDS
