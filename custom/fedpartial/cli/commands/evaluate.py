"""``fedpartial evaluate``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial.cli.completion import preset_names
from fedpartial.cli.options import DeviceOption, JsonOption, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "evaluate my_sites/liver.json --predictions labels/ -o scores/liver",
    "evaluate my_sites/liver.json --model runs/first/best_global_model.safetensors -o scores/liver",
    "evaluate my_sites/amos.json --predictions nnunet/ --prediction-labels 1=liver,2=spleen -o scores/amos",
    "evaluate phantom:external --model runs/first/best_global_model.safetensors -o scores/phantom",
)
SITE_HELP = "A site file: what the labels mean, and where the datalist is. Or phantom:NAME, to try it."
PREDICTIONS_HELP = "Folder with <image>_labels.nii.gz, <image>.nii.gz or files named like the labels."
MODEL_HELP = "Instead of --predictions: a model, with which the cases are segmented first, into OUT/predictions."
LABELS_HELP = "What the values of the predictions mean, where their headers do not say (fedpartial predict says it)."
EMPTY_HELP = "A class that is predicted but not in a case's reference: leaves the mean, or counts with Dice 0."
MERGE_HELP = (
    "Count lesions as their organ always, or never. By default where reference or predictions do not know them apart."
)
PRESET_HELP = "Preset whose classes are meant; by default that of the predictions, or the first that knows all names."


def evaluate(
    site: Annotated[Path, typer.Argument(metavar="SITE_FILE", help=SITE_HELP)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for tables, page and pictures.")],
    predictions: Annotated[Path | None, typer.Option(metavar="DIR", help=PREDICTIONS_HELP)] = None,
    model: Annotated[Path | None, typer.Option(metavar="MODEL", help=MODEL_HELP)] = None,
    split: Annotated[
        Literal["testing", "validation", "training", "all"], typer.Option(help="Cases of the datalist to score.")
    ] = "testing",
    prediction_labels: Annotated[str | None, typer.Option(metavar="1=CLASS,...", help=LABELS_HELP)] = None,
    empty_class: Annotated[Literal["exclude", "zero"], typer.Option(help=EMPTY_HELP)] = "exclude",
    merge_lesions: Annotated[
        bool | None, typer.Option("--merge-lesions/--no-merge-lesions", help=MERGE_HELP, show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP, autocompletion=preset_names)] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cases scored at a time; by default one per core, as memory allows.")
    ] = None,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an evaluation, and predictions made otherwise.")] = (
        False
    ),
    as_json: JsonOption = False,
) -> None:
    """Score predictions, or a model, against the labels of a site: Dice, HD95 and ASSD in mm by class.

    Everything is measured on the original grid of the images, and only for classes that the reference annotates.
    Exit codes: 0 every case was scored, 2 something given is wrong (the other cases are scored), 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.evaluate import evaluate as evaluate_site
        from fedpartial.cli.evaluate_request import Request

        request = Request(
            site=site,
            out=out,
            predictions=predictions,
            model=model,
            split=split,
            prediction_labels=prediction_labels,
            empty_class=empty_class,
            merge_lesions=merge_lesions,
            preset=preset,
            workers=workers,
            device=device,
            force=force,
        )
        return evaluate_site(request, reply)

    answer(as_json, work)
