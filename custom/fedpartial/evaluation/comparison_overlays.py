"""One case as every method has segmented it: the same slices side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpartial.evaluation.overlays import draw_legend, draw_letters, draw_slice, drawing, png
from fedpartial.evaluation.planes import PLANES, body_box, plane, slices_of_interest, to_ras
from fedpartial.labels import LabelSpace

PER_LINE = 6
_WIDTH, _NAME, _TITLE, _LEGEND, _GAP, _LOWEST = 2.1, 0.4, 0.4, 0.35, 0.06, 0.65
"""Sizes in inches: a panel's width, its name's height, title, legend, space between panels, a panel's least height."""
_LETTERS_OF_A_LINE = 28


@dataclass(frozen=True, kw_only=True)
class _Plane:
    """One anatomical plane: the image and every panel's channels as (rows, columns); pixel_mm: width, height."""

    letters: str
    pixel_mm: tuple[float, float]
    image: np.ndarray
    panels: Sequence[np.ndarray]

    @property
    def height(self) -> float:
        """Of a panel, in inches."""
        rows, columns = self.image.shape
        return max(_WIDTH * rows * self.pixel_mm[1] / (columns * self.pixel_mm[0]), _LOWEST)


def side_by_side(
    image: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    affine: np.ndarray,
    space: LabelSpace,
    title: str,
    spaces: Mapping[str, LabelSpace] | None = None,
    planes: Sequence[str] = ("axial", "coronal"),
) -> bytes:
    """PNG of one case: for each plane the image, the reference and the contours of every method, six in a line.

    image: HU (H, W, D). reference: channels of ``space``. predictions: method -> channels of ``spaces[method]``
    (``space`` where it has no entry), all (H, W, D). affine (4, 4): voxel -> RAS mm of all. The slices go through
    the largest lesion, or organ, of the reference, and are the same for every method.
    """
    own = spaces or {}
    volumes = [_translated(array, own.get(method, space), space) for method, array in predictions.items()]
    volumes = [np.zeros_like(reference), reference, *volumes]
    present = {channel for volume in volumes for channel in np.unique(volume).tolist()}
    classes = {name: space.index(name) for name in space.classes if space.index(name) in present}
    cuts = _cut(image, volumes, affine, space)
    with drawing():
        return png(_draw([cuts[name] for name in planes], ("image", "reference", *predictions), classes, title))


def _translated(channels: np.ndarray, own: LabelSpace, space: LabelSpace) -> np.ndarray:
    """Channels of a method's own label space -> channels of ``space``, by the names of the classes."""
    return np.array([space.index(name) for name in own.channels], dtype=np.uint8)[channels]


def _cut(image: np.ndarray, volumes: Sequence[np.ndarray], affine: np.ndarray, space: LabelSpace) -> dict[str, _Plane]:
    """Every plane, cropped to the body. Without a reference, the first method says where to look."""
    turned, spacing = to_ras(image, affine)
    labels = [to_ras(volume, affine)[0] for volume in volumes]
    indices = slices_of_interest(labels[1], labels[min(2, len(labels) - 1)], space)
    box = body_box(turned)
    planes = {}
    for name, axis, letters in PLANES:
        cut = tuple(slice(None) if a == axis else box[a] for a in range(3))
        planes[name] = _Plane(
            letters=letters,
            pixel_mm=tuple(float(spacing[a]) for a in range(3) if a != axis),
            image=plane(turned[cut], axis, indices[axis]),
            panels=[plane(volume[cut], axis, indices[axis]) for volume in labels],
        )
    return planes


def _draw(planes: Sequence[_Plane], names: Sequence[str], classes: Mapping[str, int], title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, columns = -(-len(names) // PER_LINE), min(len(names), PER_LINE)
    height = _TITLE + _LEGEND + sum(lines * (_NAME + plane.height + _GAP) for plane in planes)
    figure = Figure(figsize=(_GAP + columns * (_WIDTH + _GAP), height))
    FigureCanvasAgg(figure)
    figure.text(_GAP / figure.get_figwidth(), 1 - 0.28 / height, title, fontsize=11, va="bottom")
    top = _TITLE
    for plane_ in planes:
        for first in range(0, len(names), PER_LINE):
            _draw_line(figure, top, plane_, names, range(first, min(first + PER_LINE, len(names))), classes)
            top += _NAME + plane_.height + _GAP
    draw_legend(figure, classes)
    return figure


def _draw_line(
    figure, top: float, shown: _Plane, names: Sequence[str], panels: range, classes: Mapping[str, int]
) -> None:
    """One line of panels, each below its name; ``top`` in inches from the upper edge."""
    width, height = figure.get_size_inches()
    for column, i in enumerate(panels):
        left = _GAP + column * (_WIDTH + _GAP)
        bottom = height - top - _NAME - shown.height
        ax = figure.add_axes((left / width, bottom / height, _WIDTH / width, shown.height / height))
        draw_slice(ax, shown.image, shown.panels[i], shown.pixel_mm, classes)
        text = textwrap.fill(names[i], _LETTERS_OF_A_LINE, max_lines=2, placeholder=" …")
        middle, above = (left + _WIDTH / 2) / width, 1 - (top + _NAME - 0.04) / height
        figure.text(middle, above, text, ha="center", va="bottom", linespacing=1.1)
        if i == 0:
            draw_letters(ax, shown.letters)
