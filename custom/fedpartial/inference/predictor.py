"""Apply a trained model, or a global and a local one, to a volume: labels on its own grid, in little memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedpartial.data.file_names import LABELS, stem_of, suffix_of
from fedpartial.data.geometry import Grid
from fedpartial.data.preprocess import Volume, preprocess_image
from fedpartial.errors import ConfigError
from fedpartial.inference.models import answers_all, known_channels, load_network, load_personal
from fedpartial.inference.restoring import restore_rows
from fedpartial.inference.sliding import Progress, longest_axis, sliding_scores
from fedpartial.networks.assembled import AssembledNetwork
from fedpartial.networks.fusion import Decide, Fusion
from fedpartial.networks.personal import Personalised, decide_personal, lesions_in_organs
from fedpartial.training.model_file import read_info
from fedpartial.training.precision import select_precision


class Predictor:
    """A model written by a job, ready to segment volumes."""

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
        self.says_annotated = read_info(path).annotated is not None
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
        if not self.says_annotated and answers_all(self.network, self.preset):
            return (
                "the model file does not say which classes were annotated: one that no site has outlined may appear "
                "anywhere"
            )
        return None

    @property
    def names(self) -> dict[int, str]:
        """Channel -> class of the label maps, without background: the classes that the model knows."""
        names = self.preset.label_space.channels
        return {channel: names[channel] for channel in self._channels()}

    @property
    def per_head_names(self) -> dict[int, str]:
        """Channel -> class of the masks of the rule "per-head"; empty for a model without heads."""
        return self.names if isinstance(self.network, AssembledNetwork) else {}

    def _channels(self) -> list[int]:
        network = self.network
        if isinstance(network, Personalised):
            return sorted({*network.own, *network.global_.head_channels})
        return known_channels(network, self.preset)

    def segment(self, volume: Volume, progress: Progress | None = None) -> np.ndarray:
        """Labels (H W D), uint8 channels, on the grid of ``volume`` (HU), or with "per-head" masks (C H W D), 0 empty.

        progress: called with (windows done, windows in all). Scores are kept for a part of the volume at a time.
        """
        prepared = preprocess_image(volume, self.preset)
        axis = longest_axis(prepared.array.shape, self.preset.patch)
        if self.fusion.rule == "uncertainty":
            axis = 0  # its random numbers belong to the windows in the order of training/evaluator.py
        # They start anew for every image, so that the order of images does not matter.
        network = self.fusion.network(self.network)
        rows = sliding_scores(network, prepared.array, self.preset, self.precision, axis=axis, progress=progress)
        source = Grid(shape=prepared.array.shape, affine=prepared.affine)
        target = Grid(shape=volume.array.shape, affine=volume.affine)
        return restore_rows(rows, source, target, axis=axis, decide=self.decide)


def class_path(out: Path, name: str) -> Path:
    """The file of one class beside ``out``: ct_labels.nii.gz -> ct_liver_labels.nii.gz, a.nii -> a_liver.nii."""
    stem = stem_of(out.name)
    end = LABELS if stem.endswith(LABELS) else ""
    return out.with_name(f"{stem.removesuffix(end)}_{name}{end}{suffix_of(out.name)}")


def _wrong(where: object, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(where), field=field, got=got, expected=expected, remedy=remedy)
