"""``fedpartial predict``: label maps for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.errors import ConfigError, DataFaults

if TYPE_CHECKING:
    from rich.console import Console

    from fedpartial.networks.fusion import Fusion

SUCCESS, USER_ERROR = 0, 2


def predict_images(
    model: Path,
    images: Sequence[Path],
    out: Path,
    device: str,
    fusion: str | None,
    priority: str | None,
    console: Console,
    errors: Console,
    local: Path | None = None,
) -> int:
    """Segment every image; a wrong one is named and the others are still done."""
    from rich.text import Text

    from fedpartial.inference.predictor import Predictor

    try:
        predictor = Predictor(model, device=device, fusion=chosen_fusion(fusion, priority), local_path=local)
    except ConfigError as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        return USER_ERROR
    if predictor.remark:
        errors.print(Text(predictor.remark, style="yellow"), soft_wrap=True)
    code = SUCCESS
    for number, image in enumerate(images, start=1):
        try:
            target = target_path(image, out, several=len(images) > 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            with console.status(f"{number} of {len(images)}: {image.name}"):
                written = predictor.predict(image, target)
            for path in written:
                console.print(Text(str(path)), soft_wrap=True)
        except (ConfigError, DataFaults) as error:
            errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
            code = USER_ERROR
    return code


def chosen_fusion(rule: str | None, priority: str | None) -> Fusion | None:
    """What --fusion and --priority say; None when neither is given."""
    from fedpartial.networks.fusion import Fusion

    if rule is None and priority is None:
        return None
    order = () if priority is None else tuple(name.strip() for name in priority.split(","))
    return Fusion(rule=rule or "log-odds", priority=order)


def target_path(image: Path, out: Path, *, several: bool) -> Path:
    """Where the label map of ``image`` goes."""
    from fedpartial.inference.predictor import LABELS, SUFFIXES

    suffix = next((s for s in SUFFIXES if image.name.endswith(s)), "")
    is_file = out.name.endswith(SUFFIXES) and not several
    return out if is_file else out / f"{image.name.removesuffix(suffix)}{LABELS}.nii.gz"
