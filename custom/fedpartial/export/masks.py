"""Whether an exported network segments an image as ``fedpartial predict`` does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpartial.data.integrity import load_checked, raise_for_faults
from fedpartial.data.preprocess import load_image
from fedpartial.export.bundle import bundle_parser
from fedpartial.export.exporting import BUNDLE, EVERY, Exported
from fedpartial.export.formats import Runner
from fedpartial.export.source import quiet
from fedpartial.inference.predictor import Predictor
from fedpartial.training.precision import Precision

SHARE = 1e-3
"""Of the voxels that either of two label maps calls foreground, how many may differ."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Two label maps: voxels of another label, and voxels that either calls foreground."""

    num_different: int
    num_foreground: int

    @property
    def good(self) -> bool:
        return self.num_different <= SHARE * self.num_foreground


class Checked:
    """One image, and the label map that ``fedpartial predict`` gives for it in float32 on the CPU."""

    def __init__(self, model: Path, image: Path):
        """Raises DataFaults for an image that cannot be read."""
        self.image, faults = image, []
        self.volume = load_checked(image, "image", load_image, faults)
        raise_for_faults(faults)
        self.predictor = Predictor(model, device="cpu")
        # Elsewhere predict may compute in bfloat16, and its rounding is no fault of an exported file.
        self.predictor.precision = Precision(device=torch.device("cpu"), dtype=torch.float32)
        self.expected = self.predictor.segment(self.volume)

    def compare(self, exported: Exported) -> Masks:
        """The label map that what was exported gives for the image, against the expected one."""
        found = self._labels(exported)
        foreground = int(((found > 0) | (self.expected > 0)).sum())
        return Masks(num_different=int((found != self.expected).sum()), num_foreground=foreground)

    def _labels(self, exported: Exported) -> np.ndarray:
        if exported.format == BUNDLE.name:
            return _bundle_labels(exported.path, self.image)
        runner, kept = EVERY[exported.format].load(exported.path), self.predictor.network
        try:
            # A function, because the predictor sends eval() to a module, which an exported program refuses.
            self.predictor.network = partial(_each, runner) if exported.batch == 1 else lambda image: runner(image)
            return self.predictor.segment(self.volume)
        finally:
            self.predictor.network = kept


def _each(runner: Runner, image: Tensor) -> Tensor:
    """A batch through a program that takes one image at a time."""
    return torch.cat([runner(one) for one in image.split(1)])


def _bundle_labels(folder: Path, image: Path) -> np.ndarray:
    """The whole chain of the bundle's configuration, without saving."""
    with quiet():
        parser = bundle_parser(folder, datalist=[str(image)], device="$torch.device('cpu')")
        case = parser.get_parsed_content("segment")(parser.get_parsed_content("dataset")[0])
    return case["pred"][0].numpy().astype(np.uint8)
