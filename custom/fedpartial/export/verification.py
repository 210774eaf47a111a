"""Whether a written file gives what the network gives: it is loaded again and runs seeded random patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedpartial.export.formats import Runner
from fedpartial.export.source import Example, Source, random_image

TOLERANCE = 1e-3
"""Largest difference of a logit. Other orders of summation give about 1e-5; half of a logit's noise is far above."""
LABEL_SHARE = 1e-4
"""Share of voxels that may get another label: those whose two highest logits are closer than rounding."""


class Differs(RuntimeError):
    """A written file gives other results than the network."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How closely two networks agree: the largest difference of a logit, and the share of voxels of another label."""

    max_difference: float
    label_share: float

    @property
    def good(self) -> bool:
        return self.max_difference <= TOLERANCE and self.label_share <= LABEL_SHARE


class Reference:
    """What the network of a source says to random patches; computed once for each shape."""

    def __init__(self, source: Source):
        self.source = source
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def compare(self, runner: Runner, example: Example) -> Agreement:
        """On a patch of the preset's size; where batch or size were left open, on another batch and size too.

        Raises Differs, and what the runner raises for an image that it does not take.
        """
        shapes = [(1, *self.source.preset.patch)]
        if example.batch > 1:
            shapes.append((example.batch + 1, *example.size))
        found = [self._agreement(runner, shape) for shape in shapes]
        whole = Agreement(
            max_difference=max(one.max_difference for one in found), label_share=max(one.label_share for one in found)
        )
        if not whole.good:
            raise Differs(
                f"the file's logits differ by up to {whole.max_difference:.2g}, its labels in {whole.label_share:.2%} "
                f"of the voxels; allowed are {TOLERANCE:g} and {LABEL_SHARE:.2%}"
            )
        return whole

    def _agreement(self, runner: Runner, shape: tuple[int, ...]) -> Agreement:
        image, expected = self._expected(shape)
        with torch.inference_mode():
            found = runner(image)
        if found.shape != expected.shape:
            raise Differs(f"the file gives {tuple(found.shape)} instead of {tuple(expected.shape)}")
        other = found.argmax(1) != expected.argmax(1)
        difference = (found.float() - expected).abs().max().item()
        # A NaN compares as False, so that it is never good.
        return Agreement(max_difference=difference, label_share=other.float().mean().item())

    def _expected(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if shape not in self._known:
            image = random_image(shape[0], shape[1:])
            with torch.inference_mode():
                self._known[shape] = image, self.source.network(image).clone()
        return self._known[shape]
