"""What the commands say, line by line, as it is: no markup, no wrapping of paths, colour on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=True)


def say_faults(errors: Console, faults: Iterable[object]) -> None:
    for fault in faults:
        say(errors, f"error: {fault}", "red")
