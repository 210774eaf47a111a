"""Every case of an evaluation by class: Dice, and HD95 on a logarithmic scale, as SVG for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpartial.evaluation.canvas import INK, canvas
from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.formats import class_label
from fedpartial.evaluation.metrics import CaseScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST_MM = 0.1
"""Distances below this are drawn at it: 0 has no place on a logarithmic scale."""
_MIN_BOX, _WIDEST = 5, 0.28


def dice_figure(cases: Sequence[CaseScores], classes: Sequence[str]) -> bytes | None:
    """One point per case; a bar for the mean; None where no Dice is defined."""
    values = _values(cases, classes, "dice")
    if not any(values.values()):
        return None
    with canvas(width=8.6, height=3.4) as (ax, finish):
        _strips(ax, values)
        ax.set(ylabel="Dice", title="Dice of every case", ylim=(-0.03, 1.03))
        return finish()


def distance_figure(cases: Sequence[CaseScores], classes: Sequence[str], metric: str, title: str) -> bytes | None:
    """The same of a distance in mm, on a logarithmic scale; None where none is defined."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = _values(cases, classes, metric)
    if not any(values.values()):
        return None
    with canvas(width=8.6, height=3.4) as (ax, finish):
        _strips(ax, {name: np.maximum(found, LOWEST_MM) for name, found in values.items()})
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(ylabel="mm", title=title)
        return finish()


def _values(cases: Sequence[CaseScores], classes: Sequence[str], metric: str) -> dict[str, list[float]]:
    found = {name: [getattr(case, metric).get(name) for case in cases] for name in classes}
    return {name: [value for value in given if value is not None] for name, given in found.items()}


def _strips(ax: Axes, values: Mapping[str, Sequence[float]]) -> None:
    for x, (name, found) in enumerate(values.items()):
        if len(found):
            _strip(ax, x, found, colour(name))
    ax.set_xticks(range(len(values)), [class_label(name).replace(" ", "\n") for name in values])
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.grid(visible=False, axis="x")


def _strip(ax: Axes, x: float, values: Sequence[float], face: str) -> None:
    """Points spread sideways in the order of the cases, a box from five of them on, and a bar for the mean."""
    if len(values) >= _MIN_BOX:
        line = {"color": face, "linewidth": 1.2}
        ax.boxplot(
            [values], positions=[x], widths=2.2 * _WIDEST, manage_ticks=False, showfliers=False,
            boxprops=line, whiskerprops=line, capprops=line, medianprops=line,
        )  # fmt: skip
    spread = np.linspace(-1, 1, len(values)) * _WIDEST / 2 if len(values) > 1 else np.zeros(1)
    ax.scatter(x + spread, values, s=22, facecolor=face, edgecolor=INK, linewidth=0.5, zorder=3)
    ax.plot([x - _WIDEST, x + _WIDEST], [np.mean(values)] * 2, color=INK, linewidth=2, zorder=4)
