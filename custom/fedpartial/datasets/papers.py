"""The sizes of the splits in the papers (METHODS 1.5, 2.5, 2.6, 3.4, 4.4, 5), by data set."""

from __future__ import annotations

from dataclasses import dataclass

Sizes = tuple[int, int, int]
"""Training, validation and test cases."""


@dataclass(frozen=True, kw_only=True)
class PaperSplit:
    """How a paper splits one data set. by_name: in the order of names, not drawn. part: of the published cases it takes
    those of this published split only, None = all."""

    sizes: Sizes
    by_name: bool = False
    part: str | None = None


def _by_name(training: int, validation: int) -> PaperSplit:
    return PaperSplit(sizes=(training, validation, 0), by_name=True)


def _drawn(*sizes: int) -> PaperSplit:
    return PaperSplit(sizes=sizes)


PAPER_PRESETS = {"condistfl": "abdomen", "segviz": "segviz", "psmos": "psmos", "menu": "menu", "mmds": "mmds"}
"""The preset that has each paper's classes."""

_ALL_TEST = _drawn(0, 0, 30)
PAPERS: dict[str, dict[str, PaperSplit]] = {
    "condistfl": {
        "kidney": _drawn(126, 42, 42),
        "liver": _drawn(79, 26, 26),
        "pancreas": _drawn(169, 56, 56),
        "spleen": _drawn(25, 8, 8),
        "amos": _drawn(0, 0, 300),
    },
    "segviz": {
        "kidney": _by_name(168, 42),
        "liver": _by_name(106, 25),
        "pancreas": _by_name(225, 56),
        "spleen": _by_name(32, 9),
        "btcv": _ALL_TEST,
    },
    # The paper's fully annotated site of 24 and 6 cases is read as BTCV, the one data set here of that size.
    "psmos": {
        "kidney": _drawn(186, 0, 24),
        "liver": _drawn(105, 0, 26),
        "pancreas": _drawn(225, 0, 56),
        "spleen": _drawn(33, 0, 8),
        "btcv": _drawn(24, 0, 6),
    },
    "menu": {
        "kidney": _drawn(126, 21, 63),
        "liver": _drawn(79, 13, 39),
        "pancreas": _drawn(169, 28, 84),
        "spleen": _drawn(24, 5, 12),
        "amos": PaperSplit(sizes=(120, 20, 60), part="training"),
        "btcv": _ALL_TEST,
    },
    "mmds": {
        "kidney": _drawn(142, 22, 46),
        "liver": _drawn(95, 16, 20),
        "pancreas": _drawn(198, 29, 54),
        "spleen": _drawn(27, 4, 10),
        "amos": PaperSplit(sizes=(145, 23, 32), part="training"),
        "btcv": _ALL_TEST,
    },
}
