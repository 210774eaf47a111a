"""``fedpartial predict``: label maps for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.errors import ConfigError, DataFaults

if TYPE_CHECKING:
    from rich.console import Console

SUCCESS, USER_ERROR = 0, 2
SUFFIXES = (".nii.gz", ".nii")


def predict_images(
    model: Path, images: Sequence[Path], out: Path, device: str, console: Console, errors: Console
) -> int:
    """Segment every image; a wrong one is named and the others are still done."""
    from rich.text import Text

    from fedpartial.training.inference import predict_file

    code = SUCCESS
    for number, image in enumerate(images, start=1):
        try:
            target = target_path(image, out, several=len(images) > 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            with console.status(f"{number} of {len(images)}: {image.name}"):
                predict_file(model, image, target, device=device)
            console.print(Text(str(target)), soft_wrap=True)
        except (ConfigError, DataFaults) as error:
            errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
            code = USER_ERROR
    return code


def target_path(image: Path, out: Path, *, several: bool) -> Path:
    """Where the label map of ``image`` goes; never onto the image itself."""
    suffix = next((s for s in SUFFIXES if image.name.endswith(s)), "")
    is_file = out.name.endswith(SUFFIXES) and not several
    target = out if is_file else out / f"{image.name.removesuffix(suffix)}_labels.nii.gz"
    if target.absolute() == image.absolute():
        raise ConfigError(
            where="--out",
            field="path",
            got=str(out),
            expected="another path than the image's",
            remedy="The label map would replace the image.",
        )
    return target
