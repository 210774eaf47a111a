"""One colour per class in every figure and picture: an organ has a hue, its lesion a lighter tone of it."""

from __future__ import annotations

COLOURS = {
    "liver": "#bf4a30",
    "liver_tumor": "#f79a70",
    "spleen": "#9a76c9",
    "pancreas": "#a8800f",
    "pancreas_tumor": "#f2c838",
    "kidney": "#1f8194",
    "kidney_tumor": "#5fd0cf",
    "kidney_right": "#1f8194",
    "kidney_left": "#49a36b",
}
"""Class -> colour, light enough for contours on a grey image and dark enough for a white page."""

_OTHERS = ("#5b8f3a", "#d16ba5", "#6f7fd6", "#b0763f", "#4aa96c", "#a3a03a", "#d9822b", "#7d8ea3")


def colour(name: str) -> str:
    """Hex colour of a class; a class of another preset gets a stable colour from its name."""
    return COLOURS.get(name) or _OTHERS[sum(name.encode()) % len(_OTHERS)]
