"""Exported files give the network's results, or they are not written."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from exported_networks import KINDS, TAUGHT, TINY_HEADS, write_kind

import fedpartial
from fedpartial.errors import ConfigError
from fedpartial.export import formats
from fedpartial.export.bundle import CONFIG, METADATA, SCHEMA
from fedpartial.export.bundle_metadata import metadata_schema
from fedpartial.export.exporting import EVERY, check_out, export_model, write_description
from fedpartial.export.source import Source, quiet, random_image
from fedpartial.export.verification import TOLERANCE, Reference

SLOW_FORMATS = ("torch-export", "onnx", "bundle")


@pytest.fixture
def source(kinds, tmp_path):
    return Source(write_kind("joint", tmp_path))


def test_a_torchscript_takes_any_batch_and_size_and_says_what_it_is(source, tmp_path):
    found = export_model(source, Reference(source), EVERY["torchscript"], tmp_path / "out")
    assert found.problem is None
    assert found.agreement.max_difference <= TOLERANCE
    assert (found.batch, found.size) == ("any", {"multiples_of": [2, 2, 2]})
    extra = {formats.FACTS: ""}
    with quiet():
        torch.jit.load(str(found.path), _extra_files=extra)
    facts = json.loads(extra[formats.FACTS])
    assert facts["output"]["classes"] == list(TINY_HEADS.label_space.channels)
    assert facts["input"]["spacing_mm"] == [2.0, 2.0, 2.0]
    described = json.loads(write_description(source, [found], tmp_path / "out").read_text("utf-8"))
    assert described["files"] == {"model.ts": {"format": "torchscript", "batch": "any", "size": found.size}}


@pytest.mark.parametrize("name", ["torchscript", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_FORMATS)])
def test_no_file_tells_where_it_was_made(source, name, tmp_path):
    assert export_model(source, Reference(source), EVERY[name], tmp_path).problem is None
    checked = 0
    for path in tmp_path.rglob("*"):
        for content in _contents(path) if path.suffix != ".safetensors" and path.is_file() else ():
            for place in (Path(fedpartial.__file__).parents[1], Path(torch.__file__).parent, Path.home(), tmp_path):
                assert f"{place}/".encode() not in content, path.name
            checked += 1
    assert checked


def _contents(path: Path) -> list[bytes]:
    """A file, and of a zip archive each of its members."""
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


@pytest.mark.parametrize("kind", ["heads", "universal"])
def test_networks_that_put_scores_together_take_any_batch_too(kinds, kind, tmp_path):
    source = Source(write_kind(kind, tmp_path))
    assert export_model(source, Reference(source), EVERY["torchscript"], tmp_path / "out").batch == "any"


def test_a_file_that_differs_is_not_written(source, tmp_path):
    def load(path):
        run = formats.load_torchscript(path)
        return lambda image: run(image) + 2 * TOLERANCE

    found = export_model(source, Reference(source), replace(EVERY["torchscript"], load=load), tmp_path / "out")
    assert "differ by up to 0.002" in found.problem
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_gives_no_number_is_not_written(source, tmp_path):
    broken = replace(
        EVERY["torchscript"], load=lambda _: lambda image: torch.full((len(image), 5, *image.shape[2:]), np.nan)
    )
    assert export_model(source, Reference(source), broken, tmp_path).problem


def test_a_bundle_of_a_dynunet_is_monais_own_network(kinds, tmp_path):
    source = Source(write_kind("supervised", tmp_path))
    found = export_model(source, Reference(source), EVERY["bundle"], tmp_path / "out")
    assert found.problem is None
    assert found.agreement.max_difference <= TOLERANCE
    config = json.loads((found.path / CONFIG).read_text("utf-8"))
    assert config["network_def"]["_target_"] == "DynUNet"
    assert (
        torch.load(found.path / "models" / "model.pt", weights_only=True).keys() == source.network.state_dict().keys()
    )
    metadata = json.loads((found.path / METADATA).read_text("utf-8"))
    assert metadata["eval_metrics"] == {"mean_validation_dice": 0.5}
    jsonschema.validate(metadata, json.loads((found.path / SCHEMA).read_text("utf-8")))
    assert "Not a medical device" in (found.path / "LICENSE").read_text("utf-8")


def test_classes_that_nobody_annotated_never_win_in_a_bundle(kinds, tmp_path):
    """MONAI's DynUNet alone would answer them: the bundle brings the program of network and background together."""
    source = Source(write_kind("dynunet", tmp_path, annotated=TAUGHT))
    found = export_model(source, Reference(source), EVERY["bundle"], tmp_path / "out")
    assert (found.problem, found.batch) == (None, "any")
    image = random_image(1, source.preset.patch)
    won = set(EVERY["bundle"].load(found.path)(image).argmax(1).unique().tolist())
    taught = {source.preset.label_space.index(name) for name in TAUGHT}
    assert won - {0}
    assert won <= {0, *taught}
    assert set(source.network.network(image).argmax(1).unique().tolist()) - {0, *taught}, "without it others win"
    metadata = json.loads((found.path / METADATA).read_text("utf-8"))
    assert metadata["fedpartial"]["output"]["known"] == ["background", *TAUGHT]


def test_the_schema_refuses_metadata_without_the_shape_of_its_tensors():
    with pytest.raises(jsonschema.ValidationError, match="'authors' is a required property"):
        jsonschema.validate({"schema": "", "version": ""}, {**metadata_schema(), "required": ["authors"]})
    tensor = {"type": "image", "format": "hounsfield", "num_channels": "1"}
    given = {"network_data_format": {"inputs": {"image": tensor}, "outputs": {}}}
    messages = [error.message for error in jsonschema.Draft202012Validator(metadata_schema()).iter_errors(given)]
    assert "'1' is not of type 'integer'" in messages
    assert "'spatial_shape' is a required property" in messages
    assert "'monai_version' is a required property" in messages


def test_what_lies_there_is_replaced_with_force_only(tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    given = (EVERY["onnx"], EVERY["bundle"])
    with pytest.raises(ConfigError, match=r"model\.onnx.*--force"):
        check_out(tmp_path, given, force=False)
    check_out(tmp_path, given, force=True)
    with pytest.raises(ConfigError, match="expected a folder"):
        check_out(tmp_path / "model.onnx", given, force=True)


def test_missing_packages_are_named_together(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name != "onnx" else object())
    with pytest.raises(ConfigError, match="pip install onnxscript onnxruntime"):
        formats.check_installed(EVERY["onnx"].needs, "onnx")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dynunet"])
def test_every_network_in_every_format(kinds, kind, tmp_path):
    """A model with deep supervision is exported as a plain DynUNet, which therefore is not tried again."""
    source = Source(write_kind(kind, tmp_path))
    reference = Reference(source)
    found = [export_model(source, reference, given, tmp_path / "out") for given in EVERY.values()]
    assert [one.problem for one in found] == [None] * 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bundle",
        "model.onnx",
        "model.pt2",
        "model.ts",
    ]
