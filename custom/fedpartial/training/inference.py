"""Apply a trained model, or a global and a local one, to image files: NIfTI in, label maps out, same geometry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedpartial.data.integrity import load_checked, raise_for_faults
from fedpartial.data.preprocess import load_image, preprocess_image, restore_logits
from fedpartial.errors import ConfigError
from fedpartial.networks.assembled import AssembledNetwork, assemble, build_assembled, is_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.fusion import Decide, Fusion
from fedpartial.networks.personal import Personalised, decide_personal, lesions_in_organs, personal_network
from fedpartial.networks.split import is_head
from fedpartial.networks.universal import universal_classes
from fedpartial.presets import Preset, UniversalConfig
from fedpartial.training.evaluator import predict_logits
from fedpartial.training.model_file import load_model
from fedpartial.training.plan import Plan, differs_in_network_only
from fedpartial.training.precision import select_precision

SUFFIXES = (".nii.gz", ".nii")
LABELS = "_labels"


class Predictor:
    """A model written by a job, ready to segment image files."""

    def __init__(
        self, model_path: Path, *, device: str = "auto", fusion: Fusion | None = None, local_path: Path | None = None
    ):
        """``fusion`` says how the heads of a model become labels; None: by log-odds, or the model has no heads.
        ``local_path``: a site's own model, which answers for its classes (networks/personal.py).

        Raises ConfigError for a foreign model file, for a fusion that the model cannot follow, and for two models that
        cannot answer together.
        """
        path = Path(model_path)
        network, self.preset = load_network(path) if local_path is None else load_personal(path, Path(local_path))
        if fusion is not None and not isinstance(network, AssembledNetwork):
            raise _wrong(model_path, "heads", "none", "a model with heads for --fusion", "Leave the option out.")
        self.fusion, self.precision = fusion or Fusion(), select_precision(device, where="--device")
        self.decide = self._rule(network)
        self.network = network.to(self.precision.device, memory_format=torch.channels_last_3d)

    def _rule(self, network: nn.Module) -> Decide:
        space = self.preset.label_space
        if isinstance(network, Personalised):
            return partial(decide_personal, lesions=lesions_in_organs(space))
        return self.fusion.decide(space)

    @property
    def remark(self) -> str | None:
        """What a user should know of the models, if anything."""
        if isinstance(self.network, Personalised) and self.network.adds_nothing:
            return (
                "the local model has every class of the global one, which adds nothing: are they the right way round?"
            )
        return None

    def predict(self, image_path: Path, out_path: Path) -> list[Path]:
        """Segment one image and save its label map (uint8 channels), or with "per-head" one mask for each class.

        Returns the files. They have the image's shape, affine and header; each is written under a temporary name and
        renamed, so that an interrupted run leaves no half file. Raises DataFaults for an image that cannot be read.
        """
        targets = self._targets(Path(out_path))
        for target in targets.values():
            _check_target(target, Path(image_path))
        label = self._labels(Path(image_path))
        for channel, target in targets.items():
            _save(label if channel is None else label[channel], Path(image_path), target)
        return list(targets.values())

    def _targets(self, out: Path) -> dict[int | None, Path]:
        """File by channel; None for the one that has all labels."""
        if self.fusion.rule != "per-head":
            return {None: out}
        names = self.preset.label_space.channels
        return {channel: class_path(out, names[channel]) for channel in self.network.head_channels}

    def _labels(self, image_path: Path) -> np.ndarray:
        """Labels (H W D) or masks (C H W D) on the image's grid."""
        volume = load_checked(image_path, "image", load_image, faults := [])
        raise_for_faults(faults)
        prepared = preprocess_image(volume, self.preset)
        # Random numbers of the uncertainty rule start anew for every image, so that their order does not matter.
        network = self.fusion.network(self.network)
        scores = predict_logits(network, prepared.array, self.preset, self.precision)
        return restore_logits(scores, prepared.affine, volume.array.shape, volume.affine, decide=self.decide)


def load_network(model_path: Path) -> tuple[nn.Module, Preset]:
    """The network of a model file with its weights, and its preset; ConfigError for a file that holds none."""
    weights, info = load_model(model_path)
    plan = Plan.from_stored(info.plan)
    try:
        if plan.private_heads and not is_assembled(weights):
            weights = _site_alone(model_path, weights)
        if is_assembled(weights):
            return build_assembled(plan.config, weights), plan.config
        network = build_network(plan.config, seed=0, head_classes=_own_classes(plan.config, weights))
        load_canonical(network, {name: torch.from_numpy(value) for name, value in weights.items()})
    except StateMismatch as error:
        expected = f"the tensors of preset {plan.preset}"
        raise _wrong(model_path, "tensors", str(error), expected, "Give a model as a job has written it.") from error
    return network, plan.config


def load_personal(global_path: Path, local_path: Path) -> tuple[Personalised, Preset]:
    """The network of personalised inference from two files, and its preset; ConfigError for models that do not fit."""
    if local_path.exists() and global_path.exists() and local_path.samefile(global_path):
        raise _wrong("--local", "file", "the global model", "the site's own model", "Give local_model.safetensors.")
    global_, preset = _load_universal(global_path)
    local, local_preset = _load_universal(local_path)
    if not differs_in_network_only(local_preset, preset):
        expected = f"the label space, grid and intensities of {global_path.name}, preset {preset.name}"
        got = f"preset {local_preset.name}, with another {', '.join(_differences(local_preset, preset))}"
        raise _wrong(local_path, "preset", got, expected, "Give two models of one federation.")
    return personal_network(local, global_, preset.label_space), preset


def _load_universal(path: Path) -> tuple[nn.Module, Preset]:
    network, preset = load_network(path)
    if isinstance(preset.network, UniversalConfig):
        return network, preset
    expected = "a model with the universal network (MMDS), whose tensors say which classes it has"
    raise _wrong(path, "network", type(network).__name__, expected, "Without such models leave --local out.")


def _differences(one: Preset, other: Preset) -> list[str]:
    given = (field.name for field in fields(Preset) if field.name not in ("name", "network"))
    return [name for name in given if getattr(one, name) != getattr(other, name)]


def _own_classes(preset: Preset, weights: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    """The classes of a universal network, in the label space's order, as its tensors name them; None for others."""
    if not isinstance(preset.network, UniversalConfig):
        return None
    found, known = universal_classes(weights), preset.label_space.classes
    if foreign := sorted(set(found) - set(known)):
        raise StateMismatch(f"class {foreign[0]!r}, which is not in the label space")
    if not found:
        raise StateMismatch("no embedding of any class")
    return tuple(name for name in known if name in found)


def _site_alone(model_path: Path, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A site's own network with private heads as an assembled model of one site."""
    if not any(is_head(name) for name in weights):
        expected = "the model that a finished run has assembled"
        remedy = "The heads are collected when a run ends: take its global_model.safetensors."
        raise _wrong(model_path, "tensors", "the shared part without any head", expected, remedy)
    return assemble({}, {"site": weights}, {"site": 1})


def class_path(out: Path, name: str) -> Path:
    """The file of one class beside ``out``: ct_labels.nii.gz -> ct_liver_labels.nii.gz, a.nii -> a_liver.nii."""
    suffix = next((s for s in SUFFIXES if out.name.endswith(s)), "")
    stem = out.name.removesuffix(suffix)
    end = LABELS if stem.endswith(LABELS) else ""
    return out.with_name(f"{stem.removesuffix(end)}_{name}{end}{suffix}")


def _check_target(target: Path, image: Path) -> None:
    if target.absolute() == image.absolute():
        raise _wrong(
            "--out", "path", str(target), "another path than the image's", "The label map would replace the image."
        )


def _save(label: np.ndarray, image_path: Path, target: Path) -> None:
    import nibabel as nib

    header = nib.load(image_path).header.copy()
    header.set_data_dtype("uint8")
    header.set_slope_inter(1, 0)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    nib.save(nib.Nifti1Image(label, None, header), temporary)
    os.replace(temporary, target)


def _wrong(where: object, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(where), field=field, got=got, expected=expected, remedy=remedy)
