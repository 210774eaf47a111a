"""Class vectors: the same for a name for ever, from a file as it says, and the script that makes such a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import fedpartial
from fedpartial.errors import ConfigError
from fedpartial.networks.embeddings import class_embedding, class_vectors, read_embeddings
from fedpartial.presets import PRESETS

CLASSES = ("liver", "liver_tumor")
LIVER_OF_FOUR = [-0.03287, 0.669974, -0.257053, 0.695685]


def test_a_vector_has_unit_length_and_follows_from_the_name():
    vector = class_embedding("liver", 512)
    assert (vector.shape, vector.dtype) == ((512,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vector, class_embedding("liver", 512))
    assert abs(vector @ class_embedding("spleen", 512)) < 0.2


def test_a_vector_stays_what_it_was():
    """Stored models carry these numbers: a change here would give old and new sites different vectors."""
    np.testing.assert_allclose(class_embedding("liver", 4), LIVER_OF_FOUR, atol=1e-6)


def test_the_classes_of_the_house_have_different_vectors():
    names = sorted({name for preset in PRESETS.values() for name in preset.label_space.classes})
    vectors = np.stack([class_embedding(name, 64) for name in names])
    closeness = vectors @ vectors.T - np.eye(len(names))
    assert len(names) > 15
    assert np.abs(closeness).max() < 0.6


def test_the_callers_random_state_is_left_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    class_embedding("liver", 8)
    assert np.random.rand() == expected


def test_a_file_is_read_by_class_and_brought_to_unit_length(tmp_path):
    save_file({"liver": np.array([3.0, 4.0]), "spleen": np.array([0, 2], dtype=np.float16)}, tmp_path / "v.safetensors")
    found = read_embeddings(tmp_path / "v.safetensors", 2)
    assert {name: vector.tolist() for name, vector in found.items()} == {
        "liver": pytest.approx([0.6, 0.8]),
        "spleen": [0, 1],
    }
    assert {vector.dtype for vector in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "vector",
    [np.ones(3), np.ones((1, 2)), np.zeros(2), np.array([1.0, np.nan]), np.array([1, 2])],
    ids=["length", "shape", "zeros", "nan", "integers"],
)
def test_a_bad_vector_is_refused_by_name(tmp_path, vector):
    save_file({"liver": vector}, tmp_path / "v.safetensors")
    with pytest.raises(ConfigError, match="liver"):
        read_embeddings(tmp_path / "v.safetensors", 2)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a pickle of torch"])
def test_a_file_that_is_not_there_or_not_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "vectors.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="safetensors"):
        read_embeddings(path, 2)


def test_given_vectors_are_taken_and_all_classes_need_one():
    given = {"liver": np.array([0.6, 0.8], dtype=np.float32)}
    assert np.array_equal(class_vectors(["liver"], 2, given)["liver"], given["liver"])
    with pytest.raises(ConfigError, match="liver_tumor"):
        class_vectors(CLASSES, 2, given)
    with pytest.raises(ConfigError, match="liver"):
        class_vectors(["liver"], 3, given)


# --- tools/clip_embeddings.py -------------------------------------------------------------------------


@pytest.fixture
def clip(monkeypatch):
    monkeypatch.syspath_prepend(Path(fedpartial.__file__).parents[2] / "tools")
    return importlib.import_module("clip_embeddings")


def stand_in(model: str):
    """A text encoder whose vectors follow from the prompt's letters."""
    return lambda prompts: np.array([[len(text), text.count("_"), 1.0] for text in prompts])


def test_the_script_writes_what_a_network_reads(clip, tmp_path, capsys):
    path = tmp_path / "v.safetensors"
    assert clip.main(["--classes", *CLASSES, "-o", str(path)], load=stand_in) == 0
    found = read_embeddings(path, 3)
    lengths = [len("A computerized tomography of a liver"), len("A computerized tomography of a liver tumor")]
    for name, length in zip(CLASSES, lengths, strict=True):
        expected = np.array([length, 0, 1]) / np.hypot(length, 1)
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"model": clip.MODEL, "prompt": clip.PROMPT}
    assert "2 vectors of length 3" in capsys.readouterr().out


def test_the_script_knows_the_classes_of_a_preset(clip, tmp_path):
    path = tmp_path / "v.safetensors"
    assert clip.main(["--preset", "mmds", "-o", str(path)], load=stand_in) == 0
    assert set(read_embeddings(path, 3)) == set(PRESETS["mmds"].label_space.classes)


def test_without_the_package_the_script_says_what_is_missing(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert clip.main(["--preset", "mmds", "-o", str(tmp_path / "v.safetensors")]) == 1
    assert "pip install transformers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_weights_the_script_names_them(clip, tmp_path, capsys, monkeypatch):
    class Unreachable:
        @classmethod
        def from_pretrained(cls, model):
            raise OSError("no network")

    package = type(sys)("transformers")
    package.CLIPModel = package.CLIPTokenizerFast = Unreachable
    monkeypatch.setitem(sys.modules, "transformers", package)
    assert clip.main(["--classes", "liver", "--model", "elsewhere", "-o", str(tmp_path / "v.safetensors")]) == 1
    assert "the weights of elsewhere" in capsys.readouterr().err
