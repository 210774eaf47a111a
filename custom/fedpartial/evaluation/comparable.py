"""What one case can be scored on: the classes that its reference annotates and its prediction can name.

A data set may annotate organs without their lesions (AMOS, BTCV, WORD), and a model may know no lesions. Where one of
the two does not tell lesion and organ apart, the other one's lesion is part of the organ too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpartial.labels import LabelSpace

Lesions = Literal["auto", "merge", "keep"]
"""Which lesions count as their organ: where reference or prediction does not know them apart; all; none."""


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """How a case is scored. labelled: bool (C,), the scored classes. fold: uint8 (C,), the channel that each one counts
    as. merged: organs whose lesions count as the organ. unknown: annotated classes that the prediction cannot name.
    """

    labelled: np.ndarray
    fold: np.ndarray
    merged: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def comparable(space: LabelSpace, annotated: np.ndarray, named: Iterable[str], lesions: Lesions) -> Comparable:
    """annotated: bool (C,), of the reference. named: classes that the prediction's label map can hold."""
    known = space.labelled_mask(named, where="prediction")
    labelled, fold, merged = annotated.copy(), _identity(space), []
    for organ, *within in space.organ_groups:
        apart = annotated[within].any() and known[within].any()
        if within and (lesions == "merge" or (lesions == "auto" and annotated[organ] and not apart)):
            fold[within], labelled[within] = organ, False
            known[organ] |= known[within].any()
            merged += [space.channels[organ]] if annotated[organ] else []
    unknown = space.names(labelled & ~known)
    return Comparable(labelled=labelled & known, fold=fold, merged=tuple(merged), unknown=unknown)


def with_lesions(space: LabelSpace, scored: Comparable) -> Comparable | None:
    """The organs of a case that are scored apart from their lesions, once more together with them; None without any."""
    labelled, fold = np.zeros_like(scored.labelled), _identity(space)
    for organ, *within in space.organ_groups:
        if scored.labelled[organ] and scored.labelled[within].any():
            labelled[organ], fold[within] = True, organ
    return Comparable(labelled=labelled, fold=fold) if labelled.any() else None


def _identity(space: LabelSpace) -> np.ndarray:
    return np.arange(space.num_channels, dtype=np.uint8)
