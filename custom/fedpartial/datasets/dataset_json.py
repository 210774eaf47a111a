"""The dataset.json of the Decathlon and of nnU-Net: what its label values mean, and that it is one channel of CT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedpartial.data.file_names import SUFFIXES
from fedpartial.datasets.structures import structure_of
from fedpartial.errors import ConfigError

FILE = "dataset.json"
_MRI = ("mr", "mri", "t1", "t2", "flair", "adc", "pet")


def read_structures(folder: Path, given: Mapping[int, str]) -> dict[int, str]:
    """Raw label value -> structure; ``given`` says it where the file's own name is not understood.

    Raises ConfigError for an unreadable file, more than one channel, MRI, regions, an ignored label, and names that
    are not understood.
    """
    path = folder / FILE
    content = _read(path)
    _check_channels(path, content)
    if (ending := content.get("file_ending", SUFFIXES[0])) not in SUFFIXES:
        raise _error(path, "file_ending", ending, "NIfTI files", "Convert the images and labels to .nii.gz.")
    if "dataset" in content:
        remedy = "Copy or link the files into imagesTr and labelsTr."
        raise _error(path, "dataset", "a list of paths", "files in imagesTr and labelsTr", remedy)
    names = _names(path, content.get("labels"))
    found = {raw: None if raw in given else structure_of(name, names.values()) for raw, name in names.items()}
    unknown = {raw: names[raw] for raw, structure in found.items() if structure is None and raw not in given}
    if unknown:
        example = ",".join(f"{raw}=background" for raw in unknown)
        raise _error(
            path,
            "labels",
            ", ".join(f"{raw}: {name!r}" for raw, name in unknown.items()),
            "names of organs or lesions",
            f"Say which classes of the preset they are, or that they are to be left out: --labels {example}",
        )
    return {raw: structure for raw, structure in found.items() if structure is not None}


def _read(path: Path) -> dict:
    if not path.is_file():
        remedy = "Name the folder that holds it, or use the layout 'folders' with --labels."
        raise _error(path, "(file)", "no such file", "the data set's description", remedy)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _error(path, "(file)", str(error), "readable JSON", "Unpack or download it again.") from error
    if not isinstance(content, dict):
        raise _error(path, "(file)", type(content).__name__, "a JSON object", "Unpack or download it again.")
    return content


def _check_channels(path: Path, content: dict) -> None:
    field = "channel_names" if "channel_names" in content else "modality"
    channels = content.get(field, {})
    names = [str(name) for name in (channels.values() if isinstance(channels, dict) else [channels])]
    if len(names) > 1:
        remedy = "Data with several channels cannot be used here."
        raise _error(path, field, f"{len(names)} channels ({', '.join(names)})", "one channel, CT", remedy)
    if names and names[0].lower().split("-")[0] in _MRI:
        raise _error(path, field, names[0], "CT", "The presets' windows are in HU: use CT only.")


def _names(path: Path, labels: object) -> dict[int, str]:
    """Raw value -> name, of {"1": "liver"} (Decathlon, nnU-Net 1) or {"liver": 1} (nnU-Net 2); without background."""
    if not isinstance(labels, dict) or not labels:
        raise _error(path, "labels", labels, "names and values of the labels", "Add them, or use 'folders'.")
    names: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            remedy = "Write the values that the label files hold, one each, in a copy of the data set."
            raise _error(path, f"labels.{key}", value, "one value (regions overlap)", remedy)
        name, raw = (value, key) if isinstance(value, str) and key.isdigit() else (key, value)
        if not str(raw).isdigit():
            raise _error(path, f"labels.{key}", value, "a name and a whole number", "See nnU-Net's documentation.")
        if name.lower() == "ignore":
            remedy = "Voxels to ignore are not supported: use cases that are annotated completely."
            raise _error(path, f"labels.{key}", value, "no ignored label", remedy)
        if int(raw) != 0:
            names[int(raw)] = name
    return names


def _error(path: Path, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(path), field=field, got=got, expected=expected, remedy=remedy)
