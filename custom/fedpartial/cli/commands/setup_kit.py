"""``fedpartial setup-kit``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.options import JsonOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "setup-kit kits/server",
    "setup-kit kits/liver --site-file liver.json",
    "setup-kit kits/liver --policy byoc",
)


def setup_kit(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="A startup kit of the server or a site, unpacked.")],
    policy: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="reviewed, byoc or another of provision/policy, or a folder.")
    ] = "reviewed",
    site_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The site's file; without it a phantom site uses the phantom.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace edited files, and take a policy that keeps less.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a FLARE startup kit this project's policy, and a site its site file.

    Writes into the kit's local/ folder only. Exit codes: 0 done, 2 something given is wrong; then nothing is written.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.kit import setup_kit

        return setup_kit(kit, policy, site_file, force, reply)

    answer(as_json, work)
