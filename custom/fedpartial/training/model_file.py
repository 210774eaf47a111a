"""Global models on disk: safetensors with what is needed to use them, never pickle."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

import fedpartial
from fedpartial.errors import ConfigError
from fedpartial.labels import BACKGROUND
from fedpartial.networks.canonical import describe_mismatch
from fedpartial.training.checkpoint import read_tensors, write_tensors
from fedpartial.training.plan import Plan

WRONG_FILE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
"""What reading another file raises."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Where a model comes from; ``round_number`` counts finished rounds, val_dice None if not scored.

    annotated: classes that a training case has annotated, at any site; None where that is not known.
    recipe: of a model that a site has trained by itself, what decides it (recipe.recipe_of). training: of such a model
    its steps, seconds and last losses.
    """

    plan: dict
    classes: tuple[str, ...]
    round_number: int
    val_dice: float | None = None
    annotated: tuple[str, ...] | None = None
    recipe: str = ""
    training: Mapping[str, float] | None = None
    version: str = fedpartial.__version__


def model_info(
    plan: Plan,
    round_number: int,
    val_dice: float | None = None,
    *,
    classes: Sequence[str] | None = None,
    annotated: Collection[str] | None = None,
) -> ModelInfo:
    """classes: foreground classes of the network, where they are not all of the label space. annotated: those that
    some training case annotates."""
    space = plan.config.label_space
    return ModelInfo(
        plan=plan.to_dict(),
        classes=space.channels if classes is None else (BACKGROUND, *classes),
        round_number=round_number,
        val_dice=val_dice,
        annotated=None if annotated is None else tuple(name for name in space.classes if name in annotated),
    )


def save_model(path: Path, weights: Mapping[str, np.ndarray], info: ModelInfo) -> None:
    """Write a model atomically; ``weights`` is a canonical state."""
    tensors = {name: torch.from_numpy(np.asarray(value, order="C")) for name, value in weights.items()}
    write_tensors(path, tensors, {"fedpartial": json.dumps(asdict(info))})


def load_model(path: Path) -> tuple[dict[str, np.ndarray], ModelInfo]:
    """Weights and origin of a model file; ConfigError for anything else."""
    try:
        tensors, metadata = read_tensors(path)
        return {name: tensor.numpy() for name, tensor in tensors.items()}, _info(metadata)
    except WRONG_FILE as error:
        raise _no_model(path, error) from error


def read_info(path: Path) -> ModelInfo:
    """The origin of a model file, without its weights; ConfigError for anything else."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _info(file.metadata() or {})
    except WRONG_FILE as error:
        raise _no_model(path, error) from error


def _info(metadata: Mapping[str, str]) -> ModelInfo:
    info = json.loads(metadata["fedpartial"])
    info["classes"] = tuple(info["classes"])
    if info.get("annotated") is not None:
        info["annotated"] = tuple(info["annotated"])
    return ModelInfo(**info)


def _no_model(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        where=str(path),
        field="(file)",
        got=_found(path, error),
        expected="a model written by this project (safetensors)",
        remedy="Give the path of a global_model.safetensors.",
    )


def _found(path: Path, error: Exception) -> str:
    """What lies there instead of a model, in words for its user."""
    if path.is_dir():
        return "a folder"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, KeyError):
        return "not a model file of this project (safetensors of another program)"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"not a model file of this project, or a damaged one ({type(error).__name__}: {error})"


def check_fits(path: Path, weights: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Raise ConfigError when a loaded model does not fit the network of this run."""
    problem = describe_mismatch({name: value.shape for name, value in expected.items()}, weights)
    if problem:
        raise ConfigError(
            where=str(path),
            field="tensors",
            got=problem,
            expected="the tensors of this run's network",
            remedy="Start from a model of the same preset and label space.",
        )
