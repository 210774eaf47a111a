"""Global models on disk: a round trip, and nothing else is taken for a model."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.checkpoint import write_tensors
from fedpartial.training.model_file import check_fits, load_model, model_info, read_info, save_model
from fedpartial.training.plan import Plan


@pytest.fixture
def weights():
    return {name: tensor.numpy() for name, tensor in canonical_state(build_network(TINY, seed=0)).items()}


@pytest.fixture
def saved(tiny, weights, tmp_path):
    path = tmp_path / "global_model.safetensors"
    save_model(path, weights, model_info(tiny_plan(), 2, 0.25))
    return path


def test_a_model_comes_back_bit_for_bit_with_its_origin(saved, weights):
    found, info = load_model(saved)
    assert set(found) == set(weights)
    assert all(np.array_equal(found[n], weights[n]) and found[n].dtype == np.float32 for n in weights)
    assert (info.round_number, info.val_dice) == (2, 0.25)
    assert info.classes == TINY.label_space.channels
    assert Plan.from_dict(info.plan) == tiny_plan()


def test_merged_lesions_are_told_by_the_classes(tiny):
    assert model_info(tiny_plan(merge_lesions=True), 1).classes == (
        "background",
        "liver",
        "spleen",
        "pancreas",
        "kidney",
    )


def test_a_loaded_model_can_be_changed(saved):
    """The server adds updates to it."""
    found, _ = load_model(saved)
    for value in found.values():
        value += 1.0


def test_arrays_in_another_layout_are_written_as_they_read(tiny, tmp_path):
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    save_model(tmp_path / "m.safetensors", {"t": array}, model_info(tiny_plan(), 1))
    assert np.array_equal(load_model(tmp_path / "m.safetensors")[0]["t"], array)


def write_pickle(path):
    path.write_bytes(pickle.dumps({"model": np.zeros(3)}))


def write_torch(path):
    torch.save({"model": torch.zeros(3)}, path)


def write_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_foreign(path):
    write_tensors(path, {"w": torch.zeros(3)}, {"format": "pt"})


def write_foreign_fields(path):
    write_tensors(path, {"w": torch.zeros(3)}, {"fedpartial": '{"classes": ["liver"], "lr": 1}'})


def write_bad_json(path):
    write_tensors(path, {"w": torch.zeros(3)}, {"fedpartial": "{"})


def write_wrong_kind(path):
    write_tensors(path, {"w": torch.zeros(3)}, {"fedpartial": "[1, 2]"})


def remove(path):
    path.unlink()


def make_folder(path):
    path.unlink()
    path.mkdir()


SPOILERS = (
    write_pickle,
    write_torch,
    write_half,
    write_foreign,
    write_foreign_fields,
    write_bad_json,
    write_wrong_kind,
    remove,
    make_folder,
)


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__)
def test_anything_else_is_refused_with_its_path(saved, spoil):
    spoil(saved)
    with pytest.raises(ConfigError) as caught:
        load_model(saved)
    assert caught.value.where == str(saved)
    assert "safetensors" in caught.value.expected


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (make_folder, "^a folder$"),
        (remove, "^no such file$"),
        (lambda path: path.write_text('{"site": 1}'), "^not a model file of this project, or a damaged one"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(300)), "^not a model file of this project"),
        (write_foreign, r"^not a model file of this project \(safetensors of another program\)"),
    ],
)
@pytest.mark.parametrize("read", [load_model, read_info])
def test_what_lies_there_instead_is_said(saved, read, spoil, words):
    spoil(saved)
    with pytest.raises(ConfigError) as caught:
        read(saved)
    assert re.search(words, caught.value.got)


def test_the_origin_can_be_read_alone(saved):
    assert read_info(saved) == load_model(saved)[1]


def test_a_pickle_is_never_run(saved, tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    saved.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ConfigError):
        load_model(saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["missing", "extra", "shape"])
def test_a_model_of_another_network_does_not_fit(weights, tmp_path, how):
    last = list(weights)[-1]
    other = dict(weights)
    if how == "missing":
        del other[last]
    else:
        other["surplus" if how == "extra" else last] = np.zeros((2, 2), np.float32)
    with pytest.raises(ConfigError, match="surplus" if how == "extra" else last):
        check_fits(tmp_path / "m", other, weights)
    check_fits(tmp_path / "m", weights, weights)
