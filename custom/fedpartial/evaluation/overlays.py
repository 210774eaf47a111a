"""Pictures of a case: image, reference and prediction in three planes, in radiological convention."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.formats import class_label
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.planes import View, views
from fedpartial.evaluation.summary import statistics
from fedpartial.labels import LabelSpace

WINDOW_HU = (-160.0, 240.0)
"""Abdominal soft tissue: width 400, level 40."""
COLUMNS = ("image", "reference", "prediction")
_PANEL, _INK, _LETTER = "#101214", "#e8e8e6", "#ffd866"
_COLUMN, _GAP, _LEFT, _TOP, _LEGEND, _LOWEST = 2.9, 0.06, 0.3, 0.5, 0.3, 0.65
"""Sizes in inches; a row is at least ``_LOWEST`` high, so that thin slabs leave room for its name."""
_DPI = 110
_NAMES_PER_LINE = 7


def pick_cases(scores: Sequence[CaseScores]) -> dict[str, int]:
    """Positions in ``scores`` of the "worst", "median" and "best" case by mean Dice over its classes.

    Cases without any defined Dice are left out; {} if none is left. With one or two cases, names share a case.
    """
    means = {i: case_mean(case) for i, case in enumerate(scores)}
    order = sorted((i for i, mean in means.items() if mean is not None), key=lambda i: means[i])
    if not order:
        return {}
    return {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]}


def case_mean(scores: CaseScores) -> float | None:
    """Mean Dice over the classes where it is defined."""
    return statistics(scores.dice.values())["mean"]


def overlay_picture(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    affine: np.ndarray,
    space: LabelSpace,
    title: str,
) -> bytes:
    """PNG of one case: rows axial, coronal, sagittal; columns image, reference and prediction contours.

    image: HU (H, W, D). reference, prediction: channels (H, W, D). affine (4, 4): voxel -> RAS mm of all three.
    The slices go through the largest lesion, or organ, of the reference.
    """
    shown = views(image, reference, prediction, affine=affine, space=space)
    present = np.union1d(np.unique(reference), np.unique(prediction))
    classes = {name: space.index(name) for name in space.classes if space.index(name) in present}
    with drawing():
        return png(_draw(shown, classes, title))


def drawing():
    """The context in which pictures are drawn: light text, and a dollar sign is a dollar sign."""
    from matplotlib import rc_context

    return rc_context({"text.parse_math": False, "text.color": _INK, "font.size": 9})


def png(figure) -> bytes:
    """A figure as PNG on the dark ground of all pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor=_PANEL, metadata={"Software": None})
    return buffer.getvalue()


def _draw(shown: Sequence[View], classes: dict[str, int], title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = _COLUMN / max(view.size_mm[0] for view in shown)
    rows = [max(scale * view.size_mm[1], _LOWEST) for view in shown]
    legend = _LEGEND * (1 + len(classes) // (_NAMES_PER_LINE + 1))
    height = _TOP + sum(rows) + _GAP * len(rows) + legend
    figure = Figure(figsize=(_LEFT + len(COLUMNS) * (_COLUMN + _GAP), height), facecolor=_PANEL)
    FigureCanvasAgg(figure)
    top = _TOP
    for view, row in zip(shown, rows, strict=True):
        panels = _panels(figure, top, row, scale * view.size_mm[0], scale * view.size_mm[1])
        _draw_view(panels, view, classes)
        _text(figure, _LEFT / 2, top, view.name, rotation=90, ha="center", va="top")
        top += row + _GAP
    _draw_titles(figure, title)
    draw_legend(figure, classes)
    return figure


def _panels(figure, top: float, row: float, width: float, height: float) -> list:
    """One panel per column, centred in its row; inches from the top left corner."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - (row + height) / 2
    lefts = [_LEFT + i * (_COLUMN + _GAP) + (_COLUMN - width) / 2 for i in range(len(COLUMNS))]
    box = (bottom / full_height, width / full_width, height / full_height)
    return [figure.add_axes((left / full_width, *box)) for left in lefts]


def _text(figure, left: float, top: float, text: str, **style) -> None:
    """Text at inches from the top left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **style)


def _draw_titles(figure, title: str) -> None:
    _text(figure, _LEFT, 0.3, title, fontsize=11, va="bottom")
    for i, column in enumerate(COLUMNS):
        _text(figure, _LEFT + i * (_COLUMN + _GAP) + _COLUMN / 2, _TOP - 0.03, column, ha="center", va="bottom")


def _draw_view(panels: Sequence, view: View, classes: dict[str, int]) -> None:
    nothing = np.zeros_like(view.reference)
    for ax, channels in zip(panels, (nothing, view.reference, view.prediction), strict=True):
        draw_slice(ax, view.image, channels, view.pixel_mm, classes)
    draw_letters(panels[0], view.letters)


def draw_slice(
    ax, image: np.ndarray, channels: np.ndarray, pixel_mm: tuple[float, float], classes: Mapping[str, int]
) -> None:
    """A grey slice (rows, columns) in HU with the contours of its channels; pixel_mm: width and height of a pixel."""
    ax.imshow(image, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=pixel_mm[1] / pixel_mm[0])
    ax.set_axis_off()
    for name, channel in classes.items():
        mask = channels == channel
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            ax.contour(mask, levels=[0.5], colors=[colour(name)], linewidths=1.3)


def draw_letters(ax, letters: str) -> None:
    """The directions at the left, right, top and bottom edge."""
    spots = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, spot, (ha, va) in zip(letters, spots, aligned, strict=True):
        ax.text(*spot, letter, transform=ax.transAxes, ha=ha, va=va, fontsize=8, color=_LETTER)


def draw_legend(figure, classes: Mapping[str, int]) -> None:
    """The colours of the classes, below everything."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour(name), linewidth=3) for name in classes]
    if lines:
        names = [class_label(name) for name in classes]
        columns = min(len(lines), _NAMES_PER_LINE)
        figure.legend(lines, names, loc="lower center", ncols=columns, frameon=False, fontsize=8)
