"""What a program needs to know to use an exported network, as plain values: it goes into every file and beside it."""

from __future__ import annotations

from collections.abc import Sequence

from fedpartial.export.source import Example, Source, origin
from fedpartial.inference.models import known_channels
from fedpartial.labels import BACKGROUND

SCHEMA_VERSION = 1
NO_DEVICE = (
    "Research software. Not a medical device, and not tested or approved for diagnosis, treatment or any other use "
    "that concerns a patient."
)


def describe(source: Source, example: Example | None = None) -> dict:
    """Input, output, preprocessing and origin of a network; ``example`` is the shape its program was made on."""
    preset = source.preset
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NO_DEVICE,
        "input": {
            "name": "image",
            "axes": "N 1 H W D",
            "orientation": "H, W, D run to the patient's right, front and head (R A S)",
            "spacing_mm": list(preset.spacing_mm),
            "window_hu": list(preset.window_hu),
            "subtract": preset.normalise_subtract,
            "divide": preset.normalise_divide,
            "patch": list(preset.patch),
            **({} if example is None else open_shape(source, example)),
        },
        "output": {
            "name": "logits",
            "axes": "N C H W D",
            "classes": list(preset.label_space.channels),
            "known": known_classes(source),
            "label": "the class with the highest value",
        },
        "sliding_window": {"overlap": preset.overlap, "weights": "gaussian", "padding_value": preset.air},
        "origin": origin(source.info),
    }


def open_shape(source: Source, example: Example) -> dict:
    """Which batches and sizes a program takes that was made on that example."""
    return {
        "batch": "any" if example.batch > 1 else 1,
        "size": {"multiples_of": list(source.multiple)} if example.open_size else list(example.size),
    }


def known_classes(source: Source) -> Sequence[str]:
    """Classes that the network can answer, with background; those it has no head for never win."""
    channels = source.preset.label_space.channels
    return [BACKGROUND, *(channels[channel] for channel in known_channels(source.network, source.preset))]
