"""``fedpartial predict``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial.cli.options import DeviceOption, JsonOption, ModelArgument, examples, names
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "predict runs/first/best_global_model.safetensors ct.nii.gz -o labels.nii.gz",
    "predict runs/first/best_global_model.safetensors scans/*.nii.gz -o labels/",
    "predict runs/segviz/global_model.safetensors ct.nii.gz -o labels/ --fusion per-head",
    "predict global_model.safetensors ct.nii.gz --local local_model.safetensors -o labels.nii.gz",
)
FUSION_HELP = (
    "How the private heads of a SegViz model become labels: the highest log-odds (default), the first class of "
    "--priority, heads weighed by their uncertainty under dropout, or one file for each class, in which organs may "
    "overlap."
)
LOCAL_HELP = (
    "A site's own MMDS model. It answers for the classes it has, MODEL for the others; where both claim a voxel the "
    "local model wins, but for a lesion of MODEL inside its organ, which is shown."
)


def predict(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI images.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The label map to write, or a folder for <image>_labels.nii.gz.")
    ],
    device: DeviceOption = "auto",
    fusion: Annotated[
        Literal["log-odds", "priority", "uncertainty", "per-head"] | None, typer.Option(help=FUSION_HELP)
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(metavar="CLASS,...", help="With --fusion priority: the first one that is found wins a voxel."),
    ] = None,
    local: Annotated[Path | None, typer.Option(metavar="MODEL", help=LOCAL_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Segment images with a trained model; label maps have the grid of their images.

    Exit codes: 0 every image was segmented, 2 something given is wrong.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.predict import predict_images

        return predict_images(model, images, out, device, fusion, names(priority), reply, local)

    answer(as_json, work)
