"""A MONAI bundle: a folder with weights, metadata and a configuration that ``monai.bundle`` verifies and runs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import torch

from fedpartial.export.bundle_config import PROGRAM, WEIGHTS, inference_config
from fedpartial.export.bundle_metadata import bundle_metadata, metadata_schema
from fedpartial.export.bundle_text import LICENSE_TEXT, readme
from fedpartial.export.formats import Runner, write_torchscript
from fedpartial.export.source import Example, Source, quiet

METADATA, CONFIG, SCHEMA = "configs/metadata.json", "configs/inference.json", "docs/metadata_schema.json"


def write_bundle(source: Source, example: Example, folder: Path) -> None:
    """Write the bundle into ``folder``. MONAI builds a DynUNet itself; of another network it gets the program."""
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    torch.save(dict(source.network.state_dict()), folder / WEIGHTS)
    if not source.is_dynunet:
        write_torchscript(source, example, folder / PROGRAM)
    metadata = bundle_metadata(source)
    jsonschema.validate(metadata, metadata_schema())
    _write_json(folder / METADATA, metadata)
    _write_json(folder / CONFIG, inference_config(source, None if source.is_dynunet else example))
    _write_json(folder / SCHEMA, metadata_schema())
    (folder / "docs" / "README.md").write_text(readme(source, metadata), encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE_TEXT, encoding="utf-8")


def load_bundle(folder: Path) -> Runner:
    """The network as MONAI makes it from the bundle's configuration, on the CPU."""
    with quiet():
        return bundle_parser(folder, device="$torch.device('cpu')").get_parsed_content("network")


def bundle_parser(folder: Path, **changes: object):
    """MONAI's parser of the bundle's configuration with these values changed, as ``monai.bundle run`` takes them."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / CONFIG))
    parser.read_meta(str(folder / METADATA))
    parser.update({"bundle_root": str(folder), **changes})
    return parser


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
