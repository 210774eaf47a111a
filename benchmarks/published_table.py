"""What the tables of published numbers beside ours share: a comparison read, its numbers as texts, Markdown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedpartial.evaluation.formats import UNDEFINED, mean_sd


def read_comparison(description: str | None) -> dict:
    """The content of comparison.json in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="output folder of fedpartial compare")
    return json.loads((parser.parse_args().comparison / "comparison.json").read_text(encoding="utf-8"))


def ours(comparison: dict, which: str, method: str, name: str | None = None) -> str:
    """Our Dice of a class, or of all classes (None), in a set: mean ± sd over seeds; a dash where there is none."""
    found = comparison["scores"].get(which, {}).get("dice", {}).get(method, {"macro": None, "classes": {}})
    entry = found["macro"] if name is None else found["classes"].get(name)
    return UNDEFINED if entry is None else mean_sd(entry)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])
