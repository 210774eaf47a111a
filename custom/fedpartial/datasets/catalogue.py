"""All layouts by name."""

from __future__ import annotations

from fedpartial.datasets.generic import GENERIC
from fedpartial.datasets.layout import Layout
from fedpartial.datasets.published import PUBLISHED
from fedpartial.errors import ConfigError

AUTO = "auto"
"""In place of a layout's name: the one that the folder has."""
LAYOUTS = {layout.name: layout for layout in (*PUBLISHED, *GENERIC)}


def get_layout(name: str) -> Layout:
    """Raises ConfigError for a name that there is not."""
    if name not in LAYOUTS:
        raise ConfigError(
            where="LAYOUT",
            field="name",
            got=name,
            expected=f"one of {', '.join((*LAYOUTS, AUTO))}",
            remedy="'fedpartial datalist --list' shows what each looks for.",
        )
    return LAYOUTS[name]
