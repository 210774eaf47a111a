"""The command ``fedpartial``. Heavy imports (torch, FLARE) are made by the commands that need them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedpartial import __version__
from fedpartial.cli.commands import (
    bundle,
    check,
    compare,
    datalist,
    evaluate,
    export,
    predict,
    presets,
    resume,
    run,
    setup_kit,
    train_alone,
)
from fedpartial.cli.commands.store import store_app

app = typer.Typer(
    name="fedpartial",
    help="Federated 3D segmentation from partially labelled hospitals, as NVIDIA FLARE jobs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DATA, TRAINING, MODELS, HOSPITALS = "Your data", "Training and comparing", "Using a model", "Hospitals"
app.command(rich_help_panel=DATA, epilog=datalist.EXAMPLES, no_args_is_help=True)(datalist.datalist)
app.command(rich_help_panel=DATA, epilog=check.EXAMPLES, no_args_is_help=True)(check.check)
app.command(rich_help_panel=DATA, epilog=evaluate.EXAMPLES, no_args_is_help=True)(evaluate.evaluate)
app.command(rich_help_panel=TRAINING, epilog=presets.EXAMPLES)(presets.presets)
app.command(rich_help_panel=TRAINING, epilog=run.EXAMPLES)(run.run)
app.command(rich_help_panel=TRAINING, epilog=compare.EXAMPLES, no_args_is_help=True)(compare.compare)
app.command(rich_help_panel=TRAINING, epilog=resume.EXAMPLES)(resume.resume)
app.command(rich_help_panel=TRAINING, epilog=train_alone.EXAMPLES)(train_alone.train_alone)
app.command(rich_help_panel=MODELS, epilog=predict.EXAMPLES)(predict.predict)
app.command(rich_help_panel=MODELS, epilog=export.EXAMPLES, no_args_is_help=True)(export.export)
app.command(rich_help_panel=HOSPITALS, epilog=bundle.EXAMPLES)(bundle.bundle)
app.command(rich_help_panel=HOSPITALS, epilog=setup_kit.EXAMPLES)(setup_kit.setup_kit)
app.add_typer(store_app, rich_help_panel=HOSPITALS)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedpartial {__version__}")
        raise typer.Exit


@app.callback()
def fedpartial(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated 3D segmentation from partially labelled hospitals, as NVIDIA FLARE jobs."""
