"""What decides a local model of MMDS: the same recipe gives the same model, so that it is trained once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass

import numpy as np

from fedpartial.data.store import content_of
from fedpartial.data.stored_case import StoredCase
from fedpartial.methods.base import Method
from fedpartial.presets import Preset

DECIDING = (
    "label_space",
    "spacing_mm",
    "window_hu",
    "normalise_subtract",
    "normalise_divide",
    "patch",
    "volumes_per_batch",
    "patches_per_volume",
    "foreground_fraction",
    "patch_keep",
    "patch_keep_fraction",
    "augmentation",
    "network",
    "optimizer",
)
"""The fields of a preset that decide a model. Name, lengths (a plan states its own), the sliding window and the threads
do not: a model that was trained before stays good when they change, or when a later version adds such a field."""


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
    """A short hash of everything that decides a local model.

    Of the cases what they hold and annotate (store.content_of), never their names, places or times. Device and
    precision are left out: a site that gets a GPU keeps its model.
    """
    decides = {
        "preset": {name: _plain(getattr(preset, name)) for name in DECIDING},
        "method": repr(method),
        "steps": steps,
        "seed": seed,
        "classes": list(classes),
        "cases": [[content_of(case), case.labelled.tolist()] for case in cases],
        "embeddings": {name: np.asarray(embeddings[name]).tolist() for name in sorted(embeddings)},
    }
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) else value
