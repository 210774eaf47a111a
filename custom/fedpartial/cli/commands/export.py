"""``fedpartial export``: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpartial.cli.options import JsonOption, ModelArgument, examples
from fedpartial.cli.reply import Reply, answer

EXAMPLES = examples(
    "export runs/first/global_model.safetensors -o exported",
    "export model.safetensors -o exported --format onnx --check ct.nii.gz",
    "export model.safetensors -o exported --format all --force",
)
FORMAT_HELP = (
    "bundle: a folder that MONAI verifies and runs. torch-export: PyTorch's own program (.pt2). torchscript: its "
    "deprecated predecessor. onnx: for other runtimes; needs onnx, onnxscript and onnxruntime."
)
CHECK_HELP = "Segment this CT with the model and with every exported file; their label maps must agree."


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the files.")],
    format: Annotated[
        Literal["bundle", "torch-export", "torchscript", "onnx", "all"], typer.Option(help=FORMAT_HELP)
    ] = "bundle",
    check: Annotated[Path | None, typer.Option(metavar="IMAGE", help=CHECK_HELP)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier export has written there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model for programs that do not have fedpartial: a MONAI bundle, a PyTorch program, ONNX.

    Every file is loaded again and compared with the model before it gets its name; model.json beside it says what
    goes in and what comes out. Exit codes: 0 written and compared, 1 a format failed, 2 something given is wrong.
    """

    def work(reply: Reply) -> int:
        from fedpartial.cli.export import Options, run_export

        return run_export(Options(model=model, out=out, format=format, check=check, force=force), reply)

    answer(as_json, work)
