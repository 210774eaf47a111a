"""fedpartial export: what a user sees, what a script gets, and what a mistake costs."""

from __future__ import annotations

import json

import pytest
from tiny_hospital import write_nifti
from typer.testing import CliRunner

from federation import TINY, tiny_plan
from fedpartial.cli.main import app
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.model_file import model_info, save_model


@pytest.fixture
def model(tiny, tmp_path):
    state = {n: t.numpy() for n, t in canonical_state(build_network(TINY, seed=0)).items()}
    save_model(tmp_path / "m.safetensors", state, model_info(tiny_plan(), 2))
    return tmp_path / "m.safetensors"


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_a_bundle_is_written_compared_and_described(model, tmp_path):
    import numpy as np

    image = write_nifti(tmp_path / "ct é.nii.gz", np.zeros((9, 8, 7), np.int16), np.diag([3.0, 3, 3, 1]))
    done = export(model, "-o", tmp_path / "my out", "--check", image, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert [one["format"] for one in content["files"]] == ["bundle"]
    assert content["files"][0]["masks"]["num_different"] == 0
    assert (tmp_path / "my out" / "model.json").exists()

    again = export(model, "-o", tmp_path / "my out")
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_a_model_that_is_none_leaves_no_folder(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing")
    done = export(tmp_path / "m.safetensors", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "expected a model written by this project" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_missing_costs_nothing(model, tmp_path):
    done = export(model, "-o", tmp_path / "out", "--check", tmp_path / "none.nii.gz")
    assert done.exit_code == 2
    assert "none.nii.gz" in done.stderr
    assert not (tmp_path / "out").exists()
