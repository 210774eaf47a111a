"""Which tensors of a network, or which of their rows, serve which classes; found by name, as in split.py.

An encoder of MENU-Net belongs to an organ, a private head to a class. Of a joint output layer the rows (dimension 0)
are the channels of the label space; that of MENU-Net's decoder is averaged as the rest of the decoder, as published.
Every other tensor serves all classes alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedpartial.errors import ConfigError
from fedpartial.labels import LabelSpace
from fedpartial.networks.split import HEADS
from fedpartial.presets import Preset

ENCODERS = "encoders."
OUTPUT_LAYERS = re.compile(
    r"output_block\.conv\.conv\.\w+"  # DynUNet
    r"|deep_supervision_heads\.\d+\.conv\.conv\.\w+"
    r"|heads\.joint\.1\.conv\.unit0\.conv\.\w+"  # residual U-Net: the second layer of its joint head
)


def check_classes(preset: Preset, classes: Sequence[str]) -> None:
    """Raise ConfigError unless a network can have an output for each of these classes."""
    known = preset.label_space.classes
    if classes and len(set(classes)) == len(classes) and set(classes) <= set(known):
        return
    raise ConfigError(
        where=f"preset {preset.name}",
        field="heads",
        got=list(classes),
        expected=f"different classes, each one of {', '.join(known)}",
        remedy="A head belongs to one class of the label space: correct the site's labels.",
    )


def organ_classes(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    """The classes of each organ: of a kidney both sides, of a liver its tumour too, where they have channels."""
    return {
        organ.name: tuple(name for name in (*organ.parts, *organ.lesions) if name in space.classes)
        for organ in space.organs
    }


def tensor_classes(name: str, space: LabelSpace) -> tuple[str, ...]:
    """The classes that a whole tensor serves; empty where it serves all alike, or each with a row."""
    if name.startswith(ENCODERS):
        return organ_classes(space)[name.removeprefix(ENCODERS).split(".")[0]]
    owner = name.removeprefix(HEADS).split(".")[0]
    return (owner,) if name.startswith(HEADS) and owner in space.classes else ()


def has_class_rows(name: str) -> bool:
    """Whether the rows of a tensor are the channels of the label space, background first."""
    return OUTPUT_LAYERS.fullmatch(name) is not None
