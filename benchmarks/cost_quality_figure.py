"""Draw what quality costs: external organ Dice over megabytes that travel and over simulated seconds, for every method.

    python benchmarks/cost_quality_figure.py runs/time_to_quality docs/pictures/cost-quality.png

Reads what time_to_quality.py has left for each job. A curve has a point for every round; central training moves its
images once and standalone training its models once, so theirs rise without going right. Above the methods of the
preset ``phantom``, which share data, organs and network; below those with presets of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from quality_tables import megabytes, simulated

BLUE, SKY, GREEN, ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
RED, PINK, BLACK, GREY = "#d55e00", "#cc79a7", "#222222", "#8c8c8c"
"""Okabe and Ito's colours, told apart with any colour vision."""
SAME_DATA = {
    "condistfl": (RED, "-", "o"),
    "condistfl_union": (ORANGE, "-", "s"),
    "fedopt": (GREEN, "-", "^"),
    "fedprox": (PINK, "-", "D"),
    "fedavg": (BLUE, "-", "v"),
    "fedavg_plain": (SKY, "-", "X"),
    "standalone": (GREY, "--", "P"),
    "central": (BLACK, "--", "o"),
    "central_plain": (BLACK, ":", "s"),
}
OWN_PRESETS = {
    "segviz_fedbn": (BLUE, "-", "o"),
    "segviz_fedbn_ft": (BLUE, "-.", "s"),
    "segviz_fedavg": (SKY, "-", "v"),
    "segviz_central": (BLUE, ":", "D"),
    "psmos": (RED, "-", "o"),
    "psmos_central": (RED, ":", "D"),
    "psmos_standalone": (RED, "--", "P"),
    "fedmenu": (GREEN, "-", "o"),
    "mmds": (PINK, "-", "*"),
    "mmds_fedavg": (PINK, "-.", "v"),
    "mmds_central": (PINK, ":", "D"),
}
"""Method -> colour, line and marker; one family has one colour, dotted is central and dashed standalone training."""
ROWS = ((SAME_DATA, "preset phantom"), (OWN_PRESETS, "presets of their own"))
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "font.size": 9}
LABEL_APART = 0.046
"""Least distance of two labels, in Dice."""


def curve(quality: Mapping, mbit: float) -> dict[str, list[float]]:
    """Megabytes, simulated seconds and Dice of every point of a run."""
    points = [point for point in quality["points"] if point["organ_dice"] is not None]
    return {
        "megabytes": [megabytes(quality, point) for point in points],
        "seconds": [sum(simulated(quality, point, mbit).values()) for point in points],
        "dice": [point["organ_dice"] for point in points],
    }


def label_places(heights: Sequence[float], apart: float, top: float) -> list[float]:
    """Heights for labels, in the given order, as near as may be to ``heights``, at least ``apart`` from each other."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    places = {i: heights[i] for i in order}
    for lower, upper in pairwise(order):
        places[upper] = max(places[upper], places[lower] + apart)
    ceiling = top
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - apart
    return [places[i] for i in range(len(heights))]


def draw_curves(ax: Axes, curves: Mapping[str, Mapping], styles: Mapping, key: str, target: float) -> None:
    """Curves with their names at the right, each tied to its last point."""
    for job, found in curves.items():
        colour, dashes, marker = styles[job]
        ax.plot(found[key], found["dice"], dashes, color=colour, marker=marker, ms=4.2, lw=1.6, mew=0, clip_on=False)
    ax.axhline(target, color=GREY, lw=0.9, dashes=(4, 3), zorder=0)
    ax.set(xscale="log", ylim=(0, 1))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.16, which="major")
    heights = label_places([found["dice"][-1] for found in curves.values()], LABEL_APART, 0.99)
    for (job, found), height in zip(curves.items(), heights, strict=True):
        _name(ax, job, (found[key][-1], found["dice"][-1]), height, styles[job][0])


def _name(ax: Axes, job: str, end: tuple[float, float], height: float, colour: str) -> None:
    ax.annotate(
        job,
        xy=end,
        xytext=(1.03, height),
        textcoords=ax.get_yaxis_transform(),
        color=colour,
        fontsize=8.5,
        va="center",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.55, "shrinkA": 1, "shrinkB": 3},
    )


def draw(found: Mapping[str, Mapping], mbit: float, target: float) -> Figure:
    """``found``: job -> content of its quality.json. A row for each kind of preset that has a method."""
    rows = [(styles, title) for styles, title in ROWS if styles.keys() & found.keys()]
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.3 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        for (styles, title), axes in zip(rows, figure.subplots(len(rows), 2, squeeze=False), strict=True):
            curves = {job: curve(found[job], mbit) for job in styles if job in found}
            names = {
                "megabytes": "megabytes that have to travel, all sites",
                "seconds": f"simulated seconds, {mbit:g} Mbit/s",
            }
            for ax, (key, label) in zip(axes, names.items(), strict=True):
                draw_curves(ax, curves, styles, key, target)
                ax.set_xlabel(label)
                ax.set_ylabel("mean external organ Dice")
                ax.set_title(title, fontsize=9.5, loc="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="output folder of time_to_quality.py")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--target", type=float, default=0.80)
    arguments = parser.parse_args()
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(arguments.runs.glob("*/quality.json"))}
    if not found:
        parser.error(f"{arguments.runs}: no finished run of time_to_quality.py")
    figure = draw(found, arguments.mbit, arguments.target)
    figure.savefig(arguments.picture, format="png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
