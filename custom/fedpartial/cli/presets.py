"""``fedpartial presets``: what all sites of a federation share, one preset in a row."""

from __future__ import annotations

from fedpartial.cli.reply import SUCCESS, Reply
from fedpartial.presets import PRESETS, Preset


def show_presets(reply: Reply) -> int:
    """The whole command; returns its exit code."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_lines=True)
    for heading in ("preset", "classes", "voxels (mm), patch, batch", "rounds x steps"):
        table.add_column(heading, overflow="fold")
    for preset in PRESETS.values():
        table.add_row(preset.name, ", ".join(preset.label_space.classes), _grid(preset), _length(preset))
    reply.console.print(table)
    reply.say("phantom presets have coarse voxels and small networks, for a laptop; the others are the papers'.")
    reply.say("A lesion that is no class of its own counts as its organ; an organ of two sides may be named as one.")
    reply.add(presets={preset.name: _content(preset) for preset in PRESETS.values()})
    return SUCCESS


def _grid(preset: Preset) -> str:
    patches = preset.volumes_per_batch * preset.patches_per_volume
    return f"{_times(preset.spacing_mm)}\n{_times(preset.patch)}\n{patches} patches"


def _length(preset: Preset) -> str:
    return f"{preset.num_rounds} x {preset.local_steps}"


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _content(preset: Preset) -> dict:
    lengths = {"num_rounds": preset.num_rounds, "local_steps": preset.local_steps}
    batch = {"patch": preset.patch, "patches_in_a_batch": preset.volumes_per_batch * preset.patches_per_volume}
    return {"classes": preset.label_space.classes, "spacing_mm": preset.spacing_mm, **batch, **lengths}
