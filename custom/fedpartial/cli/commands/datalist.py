"""``fedpartial datalist``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.completion import preset_names
from fedpartial.cli.options import JsonOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "datalist --list",
    "datalist auto Task03_Liver -o my_sites",
    "datalist kits19 kits19/data --site kidney -o my_sites --split condistfl",
    "datalist amos22 amos22 --site external -o my_sites",
    "datalist folders our_ct --site clinic -o my_sites --labels 1=liver,2=liver_tumor",
)
LAYOUT_HELP = "The data set, for example msd-liver; auto recognises it; --list shows all."
SITE_HELP = (
    "Name of the site, as in the job; by default the usual one of a published data set. 'external' is the set for "
    "final scores, 'public' are images without labels."
)
PRESET_HELP = "Preset whose class names are used; by default that of the paper in --split, else abdomen."
SPLIT_HELP = (
    "Percent 60/20/20 (the default), numbers of cases 24,0,6, a paper's (condistfl, segviz, psmos, menu, mmds), "
    "published, or all-testing (the default for external; another site is then for evaluate only)."
)
LABELS_HELP = "What label values mean, where the data set does not say it: 1=liver,2=background."
PATTERN_HELP = "Regular expression for the patient in a case's name: all cases of a patient lie in one split."


def datalist(
    layout: Annotated[str | None, typer.Argument(metavar="LAYOUT", help=LAYOUT_HELP, show_default=False)] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The data set, unpacked.", show_default=False)
    ] = None,
    site: Annotated[str | None, typer.Option(metavar="NAME", help=SITE_HELP)] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for <site>.json and datalists/<site>.json."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP, autocompletion=preset_names, metavar="PRESET")] = None,
    split: Annotated[str | None, typer.Option(metavar="RULE", help=SPLIT_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one gives another split.")] = 0,
    labels: Annotated[str | None, typer.Option(metavar="VALUE=CLASS,...", help=LABELS_HELP)] = None,
    patient_pattern: Annotated[str | None, typer.Option(metavar="REGEX", help=PATTERN_HELP)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files written before.")] = False,
    list_layouts: Annotated[bool, typer.Option("--list", help="Show the layouts and where to get the data.")] = False,
    as_json: JsonOption = False,
) -> None:
    """From a downloaded data set to a site: its datalist, its splits, and what its label values mean.

    Nothing in FOLDER is changed: label files stay as they are, and are translated when they are read.
    Exit codes: 0 both files were written, 2 something given is wrong.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.datalist import Options, make_datalist, preset_of
        from fedpartial.cli.datalist_view import show_layouts

        if list_layouts:
            return show_layouts(reply)
        options = Options(
            layout=layout,
            folder=folder,
            site=site,
            out=out,
            preset=preset or preset_of(split),
            split=split,
            seed=seed,
            labels=labels,
            patient_pattern=patient_pattern,
            force=force,
        )
        return make_datalist(options, reply)

    answer(as_json, work)
