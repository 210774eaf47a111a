"""The options that several commands share: one name, one help text, one completion for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpartial.cli.completion import job_names, preset_names

MODEL_HELP = "A model that a run, a site or the store has written (.safetensors)."
SET_HELP = "A top-level value of the job's config_fed_server.json, for example pretrain_rounds=0; may be repeated."
DEVICE_HELP = "Torch device: auto, cpu, cuda, cuda:1 ... auto takes a GPU where there is one."
SITES_DEVICE_HELP = "Torch device for every site: cpu, cuda, cuda:1 ... With a cuda device the sites take turns on it."
PRESET_HELP = "Preset instead of the job's; brings its own rounds, steps and phases."

JobArgument = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job folder, or the name of one under jobs/.", autocompletion=job_names),
]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)]

RoundsOption = Annotated[
    int | None, typer.Option(min=0, help="Rounds instead of the job's; 0 trains nothing and needs --start-from.")
]
LocalStepsOption = Annotated[int | None, typer.Option(min=1, help="Local steps per round instead of the job's.")]
FinetuneStepsOption = Annotated[int | None, typer.Option(min=0, help="Steps of a job that fine-tunes its heads.")]
StartFromOption = Annotated[
    Path | None, typer.Option(metavar="MODEL", help="A model to start from; with private heads its shared part.")
]
SitesOption = Annotated[str | None, typer.Option(metavar="A,B,...", help="Sites instead of the job's.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Seed instead of the job's.")]
SettingsOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP)]
PresetOption = Annotated[str | None, typer.Option(help=PRESET_HELP, autocompletion=preset_names)]
SiteConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder with <site>.json or sites/<site>.json; other sites use the phantom."),
]
SitesDeviceOption = Annotated[str | None, typer.Option(help=SITES_DEVICE_HELP)]
DeviceOption = Annotated[str, typer.Option(help=DEVICE_HELP)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Sites that run at a time; by default all that fit into memory, and 1 with --device cuda."
    ),
]
TimeLimitOption = Annotated[float, typer.Option(min=0.01, metavar="MINUTES", help="End a run when it takes longer.")]
MinSitesOption = Annotated[
    int | None, typer.Option(min=1, metavar="K", help="Sites that must take part; by default all.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output; everything else goes to standard error.")
]
NO_LIMIT_MIN = 24 * 60.0


def names(text: str | None) -> tuple[str, ...] | None:
    """ "liver, spleen" as names; None where the option is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n[bold]Examples[/bold]\n\n" + "\n\n".join(f"  fedpartial {line}" for line in lines) + "\n"
