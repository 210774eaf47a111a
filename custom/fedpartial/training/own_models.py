"""What a site keeps between jobs, in a folder of its own: its local model, the latest global one, unfinished training.

The folder's name is ``model_dir`` of the site file and the federation's. Nothing in it leaves the site but the local
model, and that only as the answer to a task.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from fedpartial.data.stored_case import META, StoredCase
from fedpartial.methods.base import Method
from fedpartial.presets import Preset
from fedpartial.training.model_file import ModelInfo, load_model, save_model

LOCAL_MODEL, GLOBAL_MODEL = "local_model.safetensors", "global_model.safetensors"
TRAINING = "training"


class OwnModels:
    """The folder of one site in one federation."""

    def __init__(self, model_dir: Path, federation: str):
        self.folder = model_dir / federation

    @property
    def local(self) -> Path:
        return self.folder / LOCAL_MODEL

    @property
    def global_model(self) -> Path:
        return self.folder / GLOBAL_MODEL

    def training_dir(self, recipe: str) -> Path:
        """Where training by this recipe leaves its state, so that it goes on after an interruption."""
        return self.folder / TRAINING / recipe

    def trained_by(self, recipe: str) -> dict[str, Tensor] | None:
        """The local model, where this very recipe has made it."""
        import torch

        if not self.local.exists():
            return None
        weights, info = load_model(self.local)
        return {n: torch.from_numpy(v) for n, v in weights.items()} if info.recipe == recipe else None

    def keep_local(self, weights: Mapping[str, Tensor], info: ModelInfo) -> None:
        """Replace the local model; its training is finished, and that of earlier recipes is of no more use."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(self.local, {name: tensor.numpy() for name, tensor in weights.items()}, info)
        shutil.rmtree(self.folder / TRAINING, ignore_errors=True)

    def keep_global(self, weights: Mapping[str, Tensor], info: ModelInfo) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(self.global_model, {name: tensor.numpy() for name, tensor in weights.items()}, info)


def recipe_of(
    *,
    preset: Preset,
    method: Method,
    steps: int,
    seed: int,
    classes: Sequence[str],
    cases: Sequence[StoredCase],
    embeddings: Mapping[str, np.ndarray],
) -> str:
    """A short hash of everything that decides a local model: the same recipe gives the same model.

    Of the cases their files as they are now, and what they annotate; never their names.
    """
    decides = {
        "preset": asdict(preset),
        "method": repr(method),
        "steps": steps,
        "seed": seed,
        "classes": list(classes),
        "cases": [[_fingerprints(case), case.labelled.tolist()] for case in cases],
        "embeddings": {name: np.asarray(embeddings[name]).tolist() for name in sorted(embeddings)},
    }
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=8).hexdigest()


def _fingerprints(case: StoredCase) -> list:
    return json.loads((case.folder / META).read_text(encoding="utf-8"))["fingerprints"]
