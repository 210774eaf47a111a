"""Sliding-window inference that hands over finished rows, so that the scores of all classes never exist at full size.

Windows, weights and padding are those of MONAI's ``sliding_window_inference`` (training/evaluator.py), which keeps
scores of the whole volume: 19 classes of a CT of 60 cm are 1.7 GB. Here windows are walked along one axis, and rows of
it that no later window reaches are given away and forgotten; memory follows the patch, not the length of the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedpartial.presets import Preset
from fedpartial.training.precision import Precision

ROWS_AT_ONCE = 8
"""Rows handed over together: what the receiver copies of them stays small beside the sums."""
DEVICE_SHARE = 0.25
"""The part of a GPU's free memory that the sums may take; the network's activations need the rest."""

Window = tuple[slice, slice, slice]
Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Finished scores (C h *S) from row ``start`` of the walked axis, which comes first; S are the other two axes.

    In memory the channels of a voxel lie together.
    """

    start: int
    scores: Tensor


def longest_axis(shape: Sequence[int], patch: Sequence[int]) -> int:
    """The axis with the most patches in a row: walking along it keeps the smallest part of the volume."""
    return int(np.argmax([size / length for size, length in zip(shape, patch, strict=True)]))


def sliding_scores(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    preset: Preset,
    precision: Precision,
    *,
    axis: int,
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """The scores of a prepared image (H W D), float32, as rows along ``axis`` in ascending order.

    network: (N 1 H W D) -> (N C H W D). The image stays on the CPU, windows go to the network's device; the sums lie
    there too if they fit. Along axis 0 the windows have MONAI's order and batches.
    """
    if isinstance(network, nn.Module):
        network.eval()
    padded, before = _padded(image, preset)
    batches = _batches(_windows(padded.shape, preset, axis), preset.inference_batch)
    done, total, sums = 0, sum(len(batch) for batch in batches), None
    for batch in batches:
        if sums:
            yield from _inside(sums.finished(batch[0][axis].start), image.shape, before, axis)
        answers = _answers(network, padded, batch, precision)
        sums = sums or _Sums.for_answers(answers, padded.shape, batches, preset, axis)
        for scores, window in zip(answers, batch, strict=True):
            sums.add(scores, window)
        done += len(batch)
        if progress:
            progress(done, total)
    yield from _inside(sums.finished(padded.shape[axis]), image.shape, before, axis)


def _padded(image: np.ndarray, preset: Preset) -> tuple[Tensor, list[int]]:
    """The image, air around it where it is smaller than a patch, and the voxels added before each axis."""
    volume = torch.from_numpy(np.asarray(image, dtype=np.float32))
    missing = [max(length - size, 0) for length, size in zip(preset.patch, volume.shape, strict=True)]
    if any(missing):
        amounts = [part for n in reversed(missing) for part in (n // 2, n - n // 2)]
        volume = torch.nn.functional.pad(volume, amounts, value=preset.air)
    return volume, [n // 2 for n in missing]


def _windows(shape: Sequence[int], preset: Preset, axis: int) -> list[Window]:
    """MONAI's windows in the order of their start along ``axis``."""
    from monai.data.utils import dense_patch_slices

    patch = preset.patch
    steps = [max(1, int(n * (1 - preset.overlap))) if n != size else n for n, size in zip(patch, shape, strict=True)]
    return sorted(dense_patch_slices(shape, patch, steps), key=lambda window: window[axis].start)


def _batches(windows: Sequence[Window], size: int) -> list[Sequence[Window]]:
    return [windows[start : start + size] for start in range(0, len(windows), size)]


@torch.inference_mode()
def _answers(network: Callable, volume: Tensor, batch: Sequence[Window], precision: Precision) -> Tensor:
    """Scores (N *patch C) of the windows, contiguous, on the network's device."""
    windows = torch.stack([volume[window] for window in batch])[:, None].to(precision.device)
    with precision.autocast():
        return network(windows).movedim(1, -1).contiguous()


class _Sums:
    """Weighted scores (*S C) and weights (*S) of the rows that windows still reach: axis ``axis`` of S, from ``start``.

    The axes keep the order of the windows' and the channels of a voxel lie together, as networks in channels-last
    memory answer: in another order the sums take twenty times as long.
    """

    def __init__(self, scores: Tensor, weights: Tensor, importance: Tensor, axis: int):
        self.scores, self.weights, self.importance, self.axis, self.start = scores, weights, importance, axis, 0

    @classmethod
    def for_answers(cls, answers: Tensor, shape: Sequence[int], batches: Sequence, preset: Preset, axis: int) -> _Sums:
        from monai.data.utils import compute_importance_map

        rows = max(batch[-1][axis].stop - batch[0][axis].start for batch in batches)
        size = [rows if a == axis else n for a, n in enumerate(shape)]
        channels = answers.shape[-1]
        device = _room(answers.device, 4 * (channels + 1) * int(np.prod(size)))
        importance = compute_importance_map(tuple(preset.patch), mode="gaussian", device=device)
        return cls(torch.zeros(*size, channels, device=device), torch.zeros(size, device=device), importance, axis)

    def add(self, scores: Tensor, window: Window) -> None:
        """The scores (*patch C) of one window."""
        along = window[self.axis]
        moved = slice(along.start - self.start, along.stop - self.start)
        place = tuple(moved if axis == self.axis else part for axis, part in enumerate(window))
        self.scores[place].addcmul_(scores.to(self.scores), self.importance[..., None])
        self.weights[place] += self.importance

    def finished(self, until: int) -> Iterator[Rows]:
        """The rows before ``until``, which no further window reaches; then they are forgotten."""
        count = until - self.start
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, min(first + ROWS_AT_ONCE, count))
            scores, weights = (sums.movedim(self.axis, 0)[rows] for sums in (self.scores, self.weights))
            mean = torch.div(scores, weights[..., None], out=torch.empty(scores.shape, device=scores.device))
            yield Rows(start=self.start + first, scores=mean.movedim(-1, 0))
        self._forget(count)

    def _forget(self, count: int) -> None:
        across = 1 if self.axis == 0 else 0
        for sums in (self.scores, self.weights):
            kept = max(0, sums.shape[self.axis] - count)
            # Part by part: source and target overlap, and one copy of all would need the memory twice.
            for part in sums.movedim((across, self.axis), (0, 1)) if count else ():
                part[:kept] = part[count:].clone()
                part[kept:] = 0.0
        self.start += count


def _room(device: torch.device, num_bytes: int) -> torch.device:
    """The device if it has room for the sums, else the CPU."""
    if device.type == "cuda" and num_bytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")


def _inside(rows: Iterator[Rows], shape: Sequence[int], before: Sequence[int], axis: int) -> Iterator[Rows]:
    """The same rows without padding, numbered from the image's first."""
    crop = tuple(slice(before[a], before[a] + shape[a]) for a in range(3) if a != axis)
    for piece in rows:
        first = max(0, before[axis] - piece.start)
        last = min(piece.scores.shape[1], before[axis] + shape[axis] - piece.start)
        if first < last:
            scores = piece.scores[(slice(None), slice(first, last), *crop)]
            yield Rows(start=piece.start + first - before[axis], scores=scores)
