"""A picture of a segmented case: three planes with the contours of what was found, and the organs in 3D."""

from __future__ import annotations

import numpy as np

from fedpartial.evaluation.overlays import draw_legend, draw_letters, draw_slice, drawing, png
from fedpartial.evaluation.planes import View, views
from fedpartial.evaluation.surface import axis_marks, surface_picture
from fedpartial.labels import LabelSpace

COLUMN, GAP, LEFT, TOP, LEGEND, LOWEST = 2.9, 0.06, 0.3, 0.5, 0.35, 0.65
"""Sizes in inches, as in overlays.py."""
SURFACE, NAMES_PER_LINE = 5.2, 7
_PANEL, _MARK = "#101214", "#ffd866"


def prediction_picture(
    image: np.ndarray, prediction: np.ndarray, *, affine: np.ndarray, space: LabelSpace, title: str
) -> bytes:
    """PNG: rows axial, coronal, sagittal through the largest lesion or organ, as image and with contours; beside them
    the surfaces.

    image: HU (H, W, D). prediction: channels (H, W, D). affine (4, 4): voxel -> RAS mm of both.
    """
    shown = views(image, prediction, prediction, affine=affine, space=space)
    surface = surface_picture(prediction, affine=affine, space=space, image=image)
    counts = np.zeros(space.num_channels, dtype=int)
    for part in prediction:
        counts += np.bincount(part.ravel(), minlength=space.num_channels)
    classes = {name: space.index(name) for name in space.classes if counts[space.index(name)]}
    with drawing():
        return png(_draw(shown, surface, classes, title))


def _draw(shown: list[View], surface: np.ndarray | None, classes: dict[str, int], title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = COLUMN / max(view.size_mm[0] for view in shown)
    rows = [max(scale * view.size_mm[1], LOWEST) for view in shown]
    legend = LEGEND * (1 + (len(classes) - 1) // NAMES_PER_LINE)
    height = TOP + max(sum(rows) + GAP * len(rows), SURFACE / 2) + legend
    figure = Figure(figsize=(LEFT + 2 * (COLUMN + GAP) + SURFACE + LEFT, height), facecolor=_PANEL)
    FigureCanvasAgg(figure)
    _write(figure, LEFT, 0.3, title, fontsize=11, va="bottom")
    top = TOP
    for view, row in zip(shown, rows, strict=True):
        _draw_view(figure, top, row, view, scale, classes)
        top += row + GAP
    _draw_surface(figure, surface, height - TOP - legend)
    draw_legend(figure, classes)
    return figure


def _draw_view(figure, top: float, row: float, view: View, scale: float, classes: dict[str, int]) -> None:
    """The image, and again with contours."""
    width, height = scale * view.size_mm[0], scale * view.size_mm[1]
    nothing = np.zeros_like(view.prediction)
    for column, channels in enumerate((nothing, view.prediction)):
        left = LEFT + column * (COLUMN + GAP) + (COLUMN - width) / 2
        ax = _axes(figure, left, top + (row - height) / 2, width, height)
        draw_slice(ax, view.image, channels, view.pixel_mm, classes)
        if column == 0:
            draw_letters(ax, view.letters)
    _write(figure, LEFT / 2, top, view.name, rotation=90, ha="center", va="top")


def _draw_surface(figure, surface: np.ndarray | None, room: float) -> None:
    left = LEFT + 2 * (COLUMN + GAP) + LEFT / 2
    ax = _axes(figure, left, TOP, SURFACE, room)
    ax.set_axis_off()
    if surface is None:
        ax.text(0.5, 0.5, "nothing was found", ha="center", va="center", transform=ax.transAxes)
        return
    ax.imshow(surface, interpolation="antialiased")
    ax.set_anchor("C")
    corner = _axes(figure, left, TOP + room - 0.75, 0.75, 0.75)
    _draw_marks(corner)


def _draw_marks(ax) -> None:
    """Where the patient's left, front and head lie."""
    ax.set_axis_off()
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    for letter, (right, up) in axis_marks().items():
        ax.annotate("", (right, up), (0, 0), arrowprops={"arrowstyle": "-", "color": _MARK, "lw": 1})
        ax.text(1.3 * right, 1.3 * up, letter, color=_MARK, fontsize=8, ha="center", va="center")


def _axes(figure, left: float, top: float, width: float, height: float):
    """Axes by inches from the top left corner."""
    full_width, full_height = figure.get_size_inches()
    box = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    return figure.add_axes(box)


def _write(figure, left: float, top: float, text: str, **style) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **style)
