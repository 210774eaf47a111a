"""Folders taken out of a text that travels: a result is sent around, and the name of a folder may be a patient's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

BEFORE = r"(?<![\w./\\-])"
"""A path begins here: "data/" is none within "my_data/"."""


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """``text`` in which these folders are named by their last part alone, and files in and below them without it."""
    for folder in sorted({str(folder) for folder in folders}, key=len, reverse=True):
        name = Path(folder).name
        if name and folder in text:
            text = re.sub(f"{BEFORE}{re.escape(folder)}[/\\\\]", "", text)
            text = re.sub(f"{BEFORE}{re.escape(folder)}(?![\\w-])", lambda _, name=name: name, text)
    return text
