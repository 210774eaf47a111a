"""A model file applied to an image file: same geometry, channels of the label space, nothing half written."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
from tiny_hospital import write_nifti

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.inference import predict_file
from fedpartial.training.model_file import model_info, save_model

AFFINE = np.array([[0.0, -3.0, 0, 20], [-2.5, 0, 0, 30], [0, 0, 4.0, -5], [0, 0, 0, 1]])
SHAPE = (12, 14, 9)


@pytest.fixture
def model(tiny, tmp_path):
    """A model that answers "spleen" everywhere: its last layer has weight 0 and one positive bias."""
    state = {n: t.numpy() for n, t in canonical_state(build_network(TINY, seed=0)).items()}
    weight, bias = (
        next(n for n in state if n.startswith("output_block") and n.endswith(e)) for e in ("weight", "bias")
    )
    state[weight][:] = 0.0
    state[bias][:] = np.eye(8, dtype=np.float32)[TINY.label_space.index("spleen")]
    save_model(tmp_path / "m.safetensors", state, model_info(tiny_plan(), 2))
    return tmp_path / "m.safetensors"


@pytest.fixture
def image(tmp_path):
    return write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(0, 90, SHAPE).astype(np.int16), AFFINE)


def test_the_label_map_has_the_images_geometry(model, image, tmp_path):
    out = tmp_path / "out.nii.gz"
    assert predict_file(model, image, out, device="cpu") == out
    found = nibabel.load(out)
    assert found.shape == SHAPE
    np.testing.assert_array_equal(found.affine, nibabel.load(image).affine)
    assert found.get_data_dtype() == np.uint8
    assert np.unique(np.asanyarray(found.dataobj)).tolist() == [TINY.label_space.index("spleen")]
    assert found.header["xyzt_units"] == nibabel.load(image).header["xyzt_units"]


def test_a_scaled_image_does_not_scale_the_label_map(model, image, tmp_path):
    """CT files often store HU as slope * value + intercept; the answer holds channels."""
    scan = nibabel.load(image)
    scan.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata(), scan.affine, scan.header), image)
    predict_file(model, image, tmp_path / "out.nii.gz", device="cpu")
    values = np.asanyarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert np.unique(values).tolist() == [TINY.label_space.index("spleen")]


def test_a_foreign_model_is_refused_and_nothing_written(image, tmp_path):
    (tmp_path / "m.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ConfigError, match=r"m\.pt"):
        predict_file(tmp_path / "m.pt", image, tmp_path / "out.nii.gz", device="cpu")
    assert not (tmp_path / "out.nii.gz").exists()


def test_an_interruption_leaves_no_half_file(model, image, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        predict_file(model, image, tmp_path / "out.nii.gz", device="cpu")
    assert not (tmp_path / "out.nii.gz").exists()
