"""A drawing surface for figures that stand inline in a page, in light and in dark.

What is black in print becomes ``currentColor`` in the SVG, and text stays text, so a figure takes the
colour and the font of the page around it. Figures are made without pyplot: nothing global is left behind.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager

INK = "#010203"
"""The colour that becomes ``currentColor``; no other line may have it."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedpartial",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK)
_LEGEND_ROWS, _ROW_INCHES = 2, 0.17
"""A legend of more rows makes its figure higher by a row's height each: the axes keep their size."""


@contextmanager
def canvas(width: float = 5.2, height: float = 3.1):
    """Axes of a new figure in inches, and the function that adds its legend and returns its SVG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.add_subplot()

        def finish() -> bytes:
            handles, labels = ax.get_legend_handles_labels()
            if handles:
                columns = _legend_columns(len(handles))
                rows = -(-len(handles) // columns)
                figure.set_figheight(height + max(0, rows - _LEGEND_ROWS) * _ROW_INCHES)
                figure.legend(handles, labels, loc="outside lower center", ncols=columns)
            return _svg(figure)

        yield ax, finish


def _legend_columns(entries: int) -> int:
    """Rows of equal length, four entries at most."""
    return -(-entries // -(-entries // 4))


def _svg(figure) -> bytes:
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index(b"<svg") :].replace(INK.encode(), b"currentColor")


def legend_name(name: str) -> str:
    """matplotlib hides labels that start with an underscore: put an invisible character before it."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
