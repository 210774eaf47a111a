"""A sheet of a site's cases with their labels drawn on: what to look at before anything is trained."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpartial.evaluation.overlays import draw_legend, draw_letters, draw_slice, drawing, png
from fedpartial.evaluation.planes import PLANES, body_box, plane, to_ras

COLUMNS = 4
_WIDTH, _NAMES, _TITLE, _LEGEND, _GAP, _LOWEST, _TALLEST = 2.7, 0.45, 0.4, 0.4, 0.08, 0.65, 4.0
"""Inches: a panel's width, the lines above it, title, legend, space between, a panel's least and greatest height."""
_LETTERS_OF_A_LINE = 38


@dataclass(frozen=True, kw_only=True)
class Panel:
    """An axial slice: HU and channels (rows, columns), 0 where nothing is labelled; pixel_mm: width, height.

    name and note stand above it.
    """

    name: str
    note: str
    image: np.ndarray
    channels: np.ndarray
    pixel_mm: tuple[float, float]

    @property
    def height(self) -> float:
        """Of the panel, in inches."""
        rows, columns = self.image.shape
        return min(max(_WIDTH * rows * self.pixel_mm[1] / (columns * self.pixel_mm[0]), _LOWEST), _TALLEST)


def cut_panel(
    image: np.ndarray, label: np.ndarray | None, affine: np.ndarray, channels: Mapping[int, int], *, name: str
) -> Panel:
    """The axial slice with the largest area of the largest labelled structure; the middle one without any.

    image: HU (H W D). label: raw values on the same grid. affine (4, 4): voxel -> RAS mm. channels: raw value ->
    channel that the sheet's classes name; other values are not drawn.
    """
    turned, spacing = to_ras(image, affine)
    raw = np.zeros_like(turned, dtype=np.uint8) if label is None else to_ras(label, affine)[0]
    index = _slice_of_interest(raw, channels)
    box = body_box(turned[:, :, index : index + 1])
    cut = (box[0], box[1])
    edges = " x ".join(f"{edge:.3g}" for edge in spacing)
    return Panel(
        name=name,
        note=f"slice {index + 1} of {raw.shape[2]}, {edges} mm",
        image=_slice(turned[cut], index).astype(np.float32),
        channels=_translated(_slice(raw[cut], index), channels),
        pixel_mm=(float(spacing[0]), float(spacing[1])),
    )


def case_sheet(panels: Sequence[Panel], classes: Mapping[str, int], *, title: str) -> bytes:
    """PNG of the panels, four in a row, in radiological convention. classes: name -> channel."""
    with drawing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return png(_draw(panels, classes, title))


def _slice(volume: np.ndarray, index: int) -> np.ndarray:
    """NumPy's take copies the volume that it takes a slice of, where its axes are turned."""
    return plane(volume[:, :, index : index + 1], 2, 0)


def _slice_of_interest(raw: np.ndarray, channels: Mapping[int, int]) -> int:
    """Along the last axis of a RAS label."""
    areas = np.zeros((max(channels.values(), default=0) + 1, raw.shape[2]))
    for value, channel in channels.items():
        if channel:
            areas[channel] += (raw == value).sum(axis=(0, 1))
    largest = areas[areas.sum(axis=1).argmax()]
    return int(largest.argmax()) if largest.any() else raw.shape[2] // 2


def _translated(raw: np.ndarray, channels: Mapping[int, int]) -> np.ndarray:
    found = np.zeros(raw.shape, dtype=np.uint8)
    for value, channel in channels.items():
        found[raw == value] = channel
    return found


def _draw(panels: Sequence[Panel], classes: Mapping[str, int], title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(max(len(panels), 2), COLUMNS)
    rows = [panels[first : first + COLUMNS] for first in range(0, len(panels), COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    height = _TITLE + _LEGEND + sum(_NAMES + row + _GAP for row in heights)
    figure = Figure(figsize=(_GAP + columns * (_WIDTH + _GAP), height))
    FigureCanvasAgg(figure)
    figure.text(_GAP / figure.get_figwidth(), 1 - 0.3 / height, title, fontsize=11, va="bottom")
    top = _TITLE
    for row, row_height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            _draw_panel(figure, _GAP + column * (_WIDTH + _GAP), top, panel, classes)
        top += _NAMES + row_height + _GAP
    draw_legend(figure, classes)
    return figure


def _draw_panel(figure, left: float, top: float, panel: Panel, classes: Mapping[str, int]) -> None:
    """A panel below its name; ``left`` and ``top`` in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    bottom = height - top - _NAMES - panel.height
    ax = figure.add_axes((left / width, bottom / height, _WIDTH / width, panel.height / height))
    draw_slice(ax, panel.image, panel.channels, panel.pixel_mm, classes)
    draw_letters(ax, PLANES[0][2])
    name = textwrap.shorten(panel.name, _LETTERS_OF_A_LINE, placeholder=" …")
    text = f"{name if name != '…' else panel.name[:_LETTERS_OF_A_LINE]}\n{panel.note}"
    above = 1 - (top + _NAMES - 0.05) / height
    figure.text((left + _WIDTH / 2) / width, above, text, ha="center", va="bottom", fontsize=8, linespacing=1.2)
