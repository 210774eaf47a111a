"""``fedpartial check``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.completion import preset_names
from fedpartial.cli.options import JsonOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "check my_sites/liver.json",
    "check my_sites/ --preset psmos --csv faults.csv",
    "check my_sites/liver.json --cases 24 --sheet liver.png",
    "check phantom:liver",
)
SITE_HELP = "A site file, a folder of them, or phantom:NAME."
PRESET_HELP = "Preset that will be trained with; by default abdomen."
SHEET_HELP = (
    "Slices of the drawn cases: PNG file, for several sites a folder; by default <site>_check.png beside the site file."
)


def check(
    site: Annotated[Path, typer.Argument(metavar="SITE", help=SITE_HELP)],
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP, autocompletion=preset_names)] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG|DIR", help=SHEET_HELP)] = None,
    cases: Annotated[int, typer.Option(min=0, help="Random cases of each site to draw; 0 draws none.")] = 12,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="List of all faults and warnings.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cases read at a time; by default one per core.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which cases are drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Report everything wrong with a data set in one pass, and what is in it.

    Reads every image and label once and changes none. With several sites it also finds scans that occur in two of them.
    Exit codes: 0 no faults (warnings are none), 2 the data, a site file or a datalist is wrong, 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.check import Request
        from fedpartial.cli.check import check as check_data

        request = Request(
            target=site,
            preset=preset,
            sheet=sheet,
            cases=cases,
            csv=csv,
            workers=workers,
            seed=seed,
            force=force,
        )
        return check_data(request, reply)

    answer(as_json, work)
