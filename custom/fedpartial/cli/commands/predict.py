"""``fedpartial predict``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial.cli.options import DeviceOption, JsonOption, ModelArgument, examples, names
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "predict runs/first/best_global_model.safetensors ct.nii.gz -o labels.nii.gz",
    "predict runs/first/best_global_model.safetensors scans/ -o labels/ --pictures",
    "predict runs/first/best_global_model.safetensors dicom/patient1/ -o labels/ --save-image",
    "predict runs/segviz/global_model.safetensors ct.nii.gz -o labels/ --fusion per-head",
    "predict global_model.safetensors ct.nii.gz --local local_model.safetensors -o labels.nii.gz",
)
INPUT_HELP = "NIfTI images, folders of them, DICOM series folders, or folders of such folders."
OUT_HELP = "A folder for <image>_labels.nii.gz, volumes.csv and the colours for viewers; or one .nii.gz file."
FUSION_HELP = (
    "How the private heads of a SegViz model become labels: the highest log-odds (default), the first class of "
    "--priority, heads weighed by their uncertainty under dropout, or one file for each class, in which organs may "
    "overlap."
)
LOCAL_HELP = (
    "A site's own MMDS model. It answers for the classes it has, MODEL for the others; where both claim a voxel the "
    "local model wins, but for a lesion of MODEL inside its organ, which is shown."
)
PICTURES_HELP = "Draw every case: three planes with contours, and the organs in 3D (<image>.png)."
FORCE_HELP = "Segment again what is done, and replace files that something else has written."


def predict(
    model: ModelArgument,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help=INPUT_HELP)],
    out: Annotated[Path, typer.Option("-o", "--out", help=OUT_HELP)],
    device: DeviceOption = "auto",
    fusion: Annotated[
        Literal["log-odds", "priority", "uncertainty", "per-head"] | None, typer.Option(help=FUSION_HELP)
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(metavar="CLASS,...", help="With --fusion priority: the first one that is found wins a voxel."),
    ] = None,
    local: Annotated[Path | None, typer.Option(metavar="MODEL", help=LOCAL_HELP)] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help=PICTURES_HELP)] = False,
    save_image: Annotated[
        bool, typer.Option("--save-image", help="Write the CT of a DICOM series too, as <series>.nii.gz.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help=FORCE_HELP)] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment CT images with a trained model; label maps have exactly the grid of their images.

    A folder remembers what is done: after Ctrl-C the same command goes on.
    Exit codes: 0 every image was segmented, 2 something given is wrong (the other images are done), 130 Ctrl-C.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.predict import Request, predict_all

        request = Request(
            model=model,
            inputs=tuple(inputs),
            out=out,
            device=device,
            rule=fusion,
            priority=names(priority),
            local=local,
            pictures=pictures,
            save_image=save_image,
            force=force,
        )
        return predict_all(request, reply)

    answer(as_json, work)
