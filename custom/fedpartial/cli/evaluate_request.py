"""What ``fedpartial evaluate`` is asked for, and whether that can be done at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedpartial.data.datalist import SPLITS
from fedpartial.errors import ConfigError
from fedpartial.evaluation.evaluation_files import JSON
from fedpartial.evaluation.metrics import EmptyClass
from fedpartial.evaluation.prediction_files import named_values
from fedpartial.evaluation.scoring_plan import Rules
from fedpartial.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; see cli/commands/evaluate.py."""

    site: Path
    out: Path
    predictions: Path | None = None
    model: Path | None = None
    split: str = "testing"
    prediction_labels: str | None = None
    empty_class: EmptyClass = "exclude"
    merge_lesions: bool | None = None
    preset: str | None = None
    workers: int | None = None
    device: str = "auto"
    force: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS if self.split == "all" else (self.split,)

    @property
    def rules(self) -> Rules:
        lesions = {None: "auto", True: "merge", False: "keep"}[self.merge_lesions]
        labels = None if self.prediction_labels is None else named_values(self.prediction_labels)
        return Rules(preset=self.preset, labels=labels, lesions=lesions, empty_class=self.empty_class)


def check_request(request: Request) -> None:
    """ConfigError for options that do not go together, before anything is read."""
    if (request.predictions is None) == (request.model is None):
        got = "neither" if request.model is None else "both"
        raise wrong("--predictions, --model", got, "one of the two", "Give label maps, or the model that makes them.")
    if request.predictions is not None and not request.predictions.is_dir():
        got, remedy = str(request.predictions), "Correct the path, or give --model to make them."
        raise wrong("--predictions", got, "a folder of label maps", remedy)
    if request.preset is not None and request.preset not in PRESETS:
        raise wrong("--preset", request.preset, f"one of {', '.join(PRESETS)}", "Correct its spelling.")
    if request.out.exists() and not request.out.is_dir():
        raise wrong("--out", str(request.out), "a folder", "Give another name.")
    if (request.out / JSON).exists() and not request.force:
        remedy = "Give another folder, or --force to replace it."
        raise wrong("--out", f"an evaluation in {request.out}", "a folder without one", remedy)


def make_writable(folder: Path) -> None:
    """Make a folder, and ConfigError where nothing can be written into it: that is not to be found out hours later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        got, remedy = f"{folder} ({error.strerror})", "Give another folder, or make room in it."
        raise wrong("--out", got, "a folder that can be written", remedy) from error


def wrong(field: str, got: object, expected: str, remedy: str) -> ConfigError:
    """An option that is to be corrected."""
    return ConfigError(where="fedpartial evaluate", field=field, got=got, expected=expected, remedy=remedy)
