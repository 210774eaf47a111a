"""Figures of a report as SVG that takes the text colour of the page it stands in.

Each function takes the content of report.json and returns SVG bytes, or None where there is nothing to
draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpartial.evaluation.canvas import INK, canvas, legend_name
from fedpartial.evaluation.colours import colour
from fedpartial.evaluation.formats import class_label, duration
from fedpartial.evaluation.record import EXTERNAL, EXTERNAL_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SITES = ("#3a7fc8", "#dd7f1c", "#2f9e74", "#c2539a", "#8a6fd6", "#93912b", "#c9483f", "#4f9fb0")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HALF_BAR = 0.375
"""Of the bar of a round, in rounds."""
_MIN_BOX = 5
"""A box needs this many cases; fewer are shown as points only."""


def validation_curves(report: Mapping) -> bytes | None:
    """Validation Dice by round: one line per site, and the mean the model is selected by."""
    rounds = report["rounds"]
    if all(r["val_dice"] is None for r in rounds) and not _any_of_sites(rounds, "val_dice"):
        return None
    with canvas() as (ax, finish):
        _site_lines(ax, report, "val_dice")
        ax.plot(*_points(rounds, lambda r: r["val_dice"]), color=INK, linewidth=2.4, label="mean")
        _mark_selected(ax, report)
        ax.set(xlabel="round", ylabel="Dice", title="Validation Dice", ylim=(0, 1))
        return finish()


def loss_curves(report: Mapping) -> bytes | None:
    """Local training loss by round, one line per site. Losses of different sites are not comparable."""
    if not _any_of_sites(report["rounds"], "loss"):
        return None
    with canvas() as (ax, finish):
        _site_lines(ax, report, "loss")
        ax.set(xlabel="round", ylabel="loss", title="Local training loss")
        return finish()


def dice_by_class(report: Mapping, classes: Sequence[str]) -> bytes | None:
    """Dice of every case by class: the external set (filled, left) beside the sites (hollow, right)."""
    external = report["cases"].get(EXTERNAL, [])
    at_sites = [case for name, cases in report["cases"].items() if name not in EXTERNAL_NAMES for case in cases]
    summaries = [summary for name, summary in report["sites"].items() if name not in report["cases"]]
    if not external and not at_sites and not summaries:
        return None
    with canvas(width=8.6, height=3.4) as (ax, finish):
        for x, name in enumerate(classes):
            _strip(ax, x - 0.2, _dice(external, name), colour(name), filled=True)
            _strip(ax, x + 0.2, _dice(at_sites, name), colour(name), filled=False)
            _means(ax, x + 0.2, summaries, name)
        ax.set_xticks(range(len(classes)), [class_label(name).replace(" ", "\n") for name in classes])
        ax.set(ylabel="Dice", title="Dice of every case", ylim=(-0.03, 1.03))
        ax.grid(visible=False, axis="x")
        for label, face in ((EXTERNAL, INK), ("sites", "none")):
            ax.scatter([], [], s=22, facecolor=face, edgecolor=INK, linewidth=0.8, label=label)
        return finish()


def bytes_by_round(report: Mapping) -> bytes | None:
    """Traffic by round, stacked by site: to the server above the line, from it below."""
    rounds = report["rounds"]
    if not any(site["bytes_up"] + site["bytes_down"] for r in rounds for site in r["sites"].values()):
        return None
    unit, scale = _unit(max(max(r["bytes_up"], r["bytes_down"]) for r in rounds))
    with canvas() as (ax, finish):
        for direction, sign in (("bytes_up", 1), ("bytes_down", -1)):
            bottom = np.zeros(len(rounds))
            for i, site in enumerate(site_names(report)):
                height = np.array([sign * r["sites"].get(site, {}).get(direction, 0) / scale for r in rounds])
                label = legend_name(site) if sign > 0 else None
                _bars(ax, [r["round"] for r in rounds], height, bottom, _site_colour(i), label)
                bottom += height
        ax.autoscale_view()
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        ax.set(xlabel="round", ylabel=f"{unit}: received | sent", title="Traffic by round")
        _whole_rounds(ax)
        return finish()


def _bars(ax: Axes, x: Sequence[float], height: np.ndarray, bottom: np.ndarray, face: str, label: str | None) -> None:
    """Bars as one artist: sites x rounds of them are most of the time of a large report otherwise."""
    from matplotlib.collections import PolyCollection

    left, right, top = np.subtract(x, _HALF_BAR), np.add(x, _HALF_BAR), bottom + height
    corners = np.stack([(left, bottom), (left, top), (right, top), (right, bottom)]).transpose(2, 0, 1)
    ax.add_collection(PolyCollection(corners, facecolors=face, label=label))


def seconds_by_phase(report: Mapping) -> bytes | None:
    """Wall-clock time of each phase."""
    phases = report["phases"]
    if not phases:
        return None
    with canvas(height=1.0 + 0.32 * len(phases)) as (ax, finish):
        bars = ax.barh([legend_name(name) for name in phases], list(phases.values()), 0.62, color=_SITES[0])
        ax.bar_label(bars, [duration(seconds) for seconds in phases.values()], padding=4, fontsize=8.5)
        ax.invert_yaxis()
        ax.margins(x=0.18)
        ax.grid(visible=False, axis="y")
        ax.set(xlabel="seconds", title="Time by phase")
        return finish()


def site_names(report: Mapping) -> list[str]:
    """Every site with scores or rounds, in one order, so that a site keeps its colour in all figures."""
    return list(dict.fromkeys([*report["sites"], *(name for r in report["rounds"] for name in r["sites"])]))


def _site_lines(ax: Axes, report: Mapping, key: str) -> None:
    for i, site in enumerate(site_names(report)):
        x, y = _points(report["rounds"], lambda r, site=site: r["sites"].get(site, {}).get(key))
        ax.plot(x, y, _site_marker(i) + "-", color=_site_colour(i), label=legend_name(site), ms=3.5, lw=1.3)
    _whole_rounds(ax)


def _points(rounds: Sequence[Mapping], value) -> tuple[list[int], list[float]]:
    """Round numbers and values where the value is known."""
    known = [(r["round"], value(r)) for r in rounds if value(r) is not None]
    return [x for x, _ in known], [y for _, y in known]


def _mark_selected(ax: Axes, report: Mapping) -> None:
    selected = report["selected_model"]
    if selected and selected["round"] is not None and selected["val_dice"] is not None:
        spot = (selected["round"], selected["val_dice"])
        ax.plot(*spot, "o", ms=9, mfc="none", mec=INK, mew=1.6, label="selected", ls="none")


def _strip(ax: Axes, x: float, values: Sequence[float], face: str, *, filled: bool) -> None:
    if not values:
        return
    if len(values) >= _MIN_BOX:
        line = {"color": face, "linewidth": 1.2}
        ax.boxplot(
            [values], positions=[x], widths=0.3, manage_ticks=False, showfliers=False,
            boxprops=line, whiskerprops=line, capprops=line, medianprops=line,
        )  # fmt: skip
    spread = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
    ax.scatter(x + spread, values, s=22, facecolor=face if filled else "none", edgecolor=INK if filled else face,
               linewidth=0.5 if filled else 1.4, zorder=3)  # fmt: skip
    ax.plot([x - 0.16, x + 0.16], [np.mean(values)] * 2, color=INK, linewidth=2, zorder=4)


def _means(ax: Axes, x: float, summaries: Sequence[Mapping], name: str) -> None:
    """A diamond for each site of which only the mean is known."""
    for mean in (summary[name]["dice"]["mean"] for summary in summaries if name in summary):
        if mean is not None:
            ax.scatter([x], [mean], s=34, marker="D", facecolor="none", edgecolor=colour(name), linewidth=1.4, zorder=3)


def _dice(cases: Sequence[Mapping], name: str) -> list[float]:
    return [case["dice"][name] for case in cases if case["dice"].get(name) is not None]


def _any_of_sites(rounds: Sequence[Mapping], key: str) -> bool:
    return any(site[key] is not None for r in rounds for site in r["sites"].values())


def _site_colour(position: int) -> str:
    return _SITES[position % len(_SITES)]


def _site_marker(position: int) -> str:
    """Another one where the colours begin again, so that 64 sites can be told apart."""
    return _MARKERS[(position + position // len(_SITES)) % len(_MARKERS)]


def _whole_rounds(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _unit(largest: float) -> tuple[str, float]:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= scale:
            return unit, scale
    return "bytes", 1.0
