"""Figures of a comparison as SVG that takes the text colour of the page it stands in; None where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fedpartial.evaluation.canvas import INK, canvas, legend_name
from fedpartial.evaluation.comparison_scores import has_all_classes
from fedpartial.evaluation.comparison_sets import SETS
from fedpartial.evaluation.record import EXTERNAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 8.6
_DASHES = ("-", "--", ":")
_APART, _ROOM = 0.24, 0.8
"""Distance of the sets of one method and the room for all of them, where methods are 1 apart."""


def styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, line style), the same in every figure: ten colours, then the same with dashes."""
    from matplotlib.colors import TABLEAU_COLORS

    colours = list(TABLEAU_COLORS.values())
    return {
        method: (colours[i % len(colours)], _DASHES[i // len(colours) % len(_DASHES)])
        for i, method in enumerate(methods)
    }


def validation_by_steps(curves: Mapping[str, Sequence[Mapping]]) -> bytes | None:
    """Validation Dice over local steps done: a line for the mean of the seeds, a band from lowest to highest."""
    if not any(curves.values()):
        return None
    with canvas(width=_WIDTH, height=4.2) as (ax, finish):
        for method, (colour, dashes) in styles(list(curves)).items():
            if points := curves[method]:
                steps, mean, low, high = ([p[key] for p in points] for key in ("steps", "mean", "low", "high"))
                marker = "o" if len(points) == 1 else None
                ax.plot(steps, mean, dashes, color=colour, lw=1.8, marker=marker, ms=4, label=legend_name(method))
                ax.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.set(xlabel="local steps of each site", ylabel="Dice", title="Validation Dice", ylim=(0, 1))
        ax.set_xlim(left=0)
        return finish()


def macro_means(scores: Mapping[str, Mapping], methods: Sequence[str]) -> bytes | None:
    """Mean Dice over all classes of each set, of the methods that have them all: one point per seed, a tick for their
    mean, a line from end to end."""
    sets = [which for which in scores if any(_values(scores[which], method) for method in methods)]
    if not sets:
        return None
    with canvas(width=_WIDTH, height=1.3 + len(methods) * max(0.32, 0.15 * len(sets))) as (ax, finish):
        for method, which, y in _places(methods, sets):
            _seeds(ax, y, _values(scores[which], method), styles(methods)[method][0], which)
        for which in sets:
            filled = INK if which == EXTERNAL else "none"
            ax.scatter(
                [], [], s=24, marker=SETS[which].marker, facecolor=filled, edgecolor=INK, label=SETS[which].label
            )
        ax.set_yticks(range(len(methods)), [legend_name(method) for method in methods])
        ax.set_ylim(len(methods) - 0.5, -0.5)
        ax.set(xlabel="Dice", title="Mean Dice over classes, one point per seed")
        return finish()


def _places(methods: Sequence[str], sets: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    apart = min(_APART, _ROOM / len(sets))
    for i, method in enumerate(methods):
        for k, which in enumerate(sets):
            yield method, which, i + apart * (k - (len(sets) - 1) / 2)


def _seeds(ax: Axes, y: float, values: Sequence[float], colour: str, which: str) -> None:
    if not values:
        return
    ax.plot([min(values), max(values)], [y, y], color=colour, linewidth=1.2, zorder=2)
    face = colour if which == EXTERNAL else "none"
    ax.scatter(values, [y] * len(values), s=24, marker=SETS[which].marker, facecolor=face, edgecolor=colour, zorder=3)
    ax.plot([sum(values) / len(values)] * 2, [y - 0.1, y + 0.1], color=INK, linewidth=2, zorder=4)


def _values(scores: Mapping, method: str) -> list[float]:
    if not has_all_classes(scores, "dice", method):
        return []
    return [value for value in scores["dice"][method]["macro"]["by_seed"].values() if value is not None]
