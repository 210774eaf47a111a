"""``fedpartial presets``: its options and help."""

from __future__ import annotations

from fedpartial.cli.options import JsonOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples("presets", "presets --json")


def presets(as_json: JsonOption = False) -> None:
    """Show the presets: their classes, which site files name, voxels, patches, and the length of a run.

    Exit codes: 0 done.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.presets import show_presets

        return show_presets(reply)

    answer(as_json, work)
