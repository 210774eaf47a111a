"""The paper's figure 4 from our own numbers: communication and training by stage, MMDS beside FedAvg (METHODS 4.7)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpartial.evaluation.canvas import INK, legend_name
from fedpartial.evaluation.stage_loads import FEDAVG, MMDS, StageLoad, by_method, cumulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {MMDS: "#3a7fc8", FEDAVG: "#dd7f1c"}
LOG_FROM = 30
"""Bars that differ by this factor stand on a logarithmic axis, or the small one could not be seen."""
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "font.size": 9}
_WIDTH = 0.38


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A quantity and its two parts, the second drawn pale beside the first."""

    title: str
    first: Callable[[StageLoad], float | None]
    second: Callable[[StageLoad], float | None]
    names: tuple[str, str]


PANELS = (
    Panel(
        title="Messages",
        first=lambda load: load.messages_up,
        second=lambda load: load.messages_down,
        names=("up", "down"),
    ),
    Panel(
        title="Megabytes",
        first=lambda load: load.bytes_up / 1e6,
        second=lambda load: load.bytes_down / 1e6,
        names=("up", "down"),
    ),
    Panel(
        title="Training (epochs)",
        first=lambda load: load.epochs,
        second=lambda load: load.server_epochs,
        names=("sites", "server"),
    ),
)


def draw_loads(loads: Sequence[StageLoad]) -> bytes:
    """PNG: a column for each panel, every stage alone above, and with all stages before it below."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(PANELS), squeeze=False)
        for row, (when, given) in zip(axes, (("each stage", loads), ("cumulative", cumulated(loads))), strict=True):
            for ax, panel in zip(row, PANELS, strict=True):
                _draw(ax, panel, given, when)
        figure.legend(*_legend(list(by_method(loads))), loc="outside lower center", ncols=4, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _draw(ax: Axes, panel: Panel, loads: Sequence[StageLoad], when: str) -> None:
    stages = list(dict.fromkeys(load.stage for load in loads))
    values = []
    for place, (method, of_method) in enumerate(by_method(loads).items()):
        for part, alpha in ((0, 1.0), (1, 0.4)):
            heights = [_height((panel.first, panel.second)[part](load)) for load in of_method]
            left = (place - 0.5) * _WIDTH + (part - 0.5) * _WIDTH / 2
            xs = [stages.index(load.stage) + left for load in of_method]
            ax.bar(xs, heights, _WIDTH / 2, color=COLOURS.get(method, INK), alpha=alpha)
            values += [height for height in heights if height > 0]
    if values and max(values) >= LOG_FROM * min(values):
        ax.set_yscale("log")
        ax.set_ylim(bottom=min(values) / 2)
    ax.set_xticks(range(len(stages)), [legend_name(stage) for stage in stages], rotation=20, ha="right")
    ax.set_title(f"{panel.title}, {when}", fontsize=9.5)
    ax.grid(axis="y", alpha=0.18)


def _height(value: float | None) -> float:
    """An unknown quantity has no bar."""
    return np.nan if value is None else value


def _legend(methods: Sequence[str]) -> tuple[list, list[str]]:
    from matplotlib.patches import Patch

    kinds = (("up, sites", 1.0), ("down, server", 0.4))
    given = [(Patch(color=COLOURS.get(m, INK), alpha=alpha), f"{m}: {kind}") for m in methods for kind, alpha in kinds]
    return [patch for patch, _ in given], [text for _, text in given]
