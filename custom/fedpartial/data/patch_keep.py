"""Which candidates for a patch are kept: the readings of "only patches whose target area > 33 %" (METHODS 3.4).

nnU-Net draws a third of its patches around foreground and keeps all of them ("nnunet_oversample"). The literal readings
draw until a patch has enough of what is annotated, and take the best of some candidates where none has. Of 33 % of the
patch's voxels none ever has (a patch of the paper holds 10.5 litres, more than these organs together): that rule takes
the best of all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedpartial.data.stored_case import StoredCase
from fedpartial.presets import Preset

MAX_CANDIDATES = 16


def kept_start(case: StoredCase, preset: Preset, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """First index (3,) of the patch to train on, of those that ``draw`` gives.

    Looks at the labels of the straight patch, before it is turned.
    """
    if preset.patch_keep == "nnunet_oversample":
        return draw()
    score = SCORES[preset.patch_keep]
    best, start = -1.0, np.zeros(3, dtype=int)
    for _ in range(MAX_CANDIDATES):
        candidate = draw()
        found = score(case, candidate, preset.patch)
        if found > best:
            best, start = found, candidate
        if best > preset.patch_keep_fraction:
            break
    return start


def foreground_share(case: StoredCase, start: np.ndarray, patch: Sequence[int]) -> float:
    """The part of the patch's voxels that are annotated foreground; voxels outside of the volume are none."""
    low, high = np.maximum(start, 0), np.minimum(start + patch, case.label.shape)
    inside = case.label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return float(np.count_nonzero(case.labelled[inside]) / np.prod(patch))


def best_coverage(case: StoredCase, start: np.ndarray, patch: Sequence[int]) -> float:
    """The largest part of an annotated class's voxels in the case that lies in the patch; 0 for a case without any.

    From the voxels that the store has listed: all of a class, or a random 20,000 that tell the share as well. No volume
    is read.
    """
    shares = [0.0]
    for channel in case.present:
        voxels = case.foreground(channel)
        shares.append(float(((voxels >= start) & (voxels < start + patch)).all(axis=1).mean()))
    return max(shares)


SCORES: dict[str, Callable[[StoredCase, np.ndarray, Sequence[int]], float]] = {
    "fg_voxel_fraction": foreground_share,
    "organ_coverage": best_coverage,
}
"""By the preset's patch_keep."""
