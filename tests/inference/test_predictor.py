"""A model file applied to an image: same geometry, channels of the label space, nothing half written, every fusion."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
from tiny_hospital import write_nifti

from federation import TINY, tiny_plan
from fedpartial import presets
from fedpartial.errors import ConfigError
from fedpartial.inference.predictor import Predictor, class_path
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.fusion import Fusion
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan
from segviz_sites import SMALL, random_state

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
    assert Predictor(model, device="cpu").predict(image, out) == [out]
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
    Predictor(model, device="cpu").predict(image, tmp_path / "out.nii.gz")
    values = np.asanyarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert np.unique(values).tolist() == [TINY.label_space.index("spleen")]


def test_a_foreign_model_is_refused(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ConfigError, match=r"m\.pt"):
        Predictor(tmp_path / "m.pt", device="cpu")


def test_a_model_of_another_network_is_refused(model, tmp_path):
    weights, info = load_model(model)
    weights.popitem()
    save_model(tmp_path / "less.safetensors", weights, info)
    with pytest.raises(ConfigError, match=r"less.*1 tensor\(s\) missing"):
        Predictor(tmp_path / "less.safetensors", device="cpu")


def test_a_label_map_never_replaces_its_image(model, image):
    before = image.read_bytes()
    with pytest.raises(ConfigError, match="replace the image"):
        Predictor(model, device="cpu").predict(image, image)
    assert image.read_bytes() == before


def test_an_interruption_leaves_no_half_file(model, image, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        Predictor(model, device="cpu").predict(image, tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


HEADS = {"north": ["liver"], "south": ["spleen", "kidney"]}


@pytest.fixture
def small(monkeypatch):
    """A plan whose sites have private heads, for a preset that get_preset() knows."""
    monkeypatch.setitem(presets.PRESETS, SMALL.name, SMALL)
    return Plan(job="test", preset=SMALL.name, num_rounds=2, local_steps=2, merge_lesions=True, exchange="trunk")


@pytest.fixture
def assembled(small, tmp_path):
    """A model of two sites and three random heads that overlap."""
    states = {site: random_state(classes, seed=number) for number, (site, classes) in enumerate(HEADS.items())}
    shared = {n: t for n, t in states["north"].items() if n.startswith("trunk.")}
    private = {site: {n: t for n, t in state.items() if n not in shared} for site, state in states.items()}
    path = tmp_path / "assembled.safetensors"
    save_model(path, assemble(shared, private, {"north": 1, "south": 2}), model_info(small, 2))
    return path


def labels_of(path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def predicted(model, image, out, **fusion) -> list[np.ndarray]:
    predictor = Predictor(model, device="cpu", fusion=Fusion(**fusion) if fusion else None)
    return [labels_of(path) for path in predictor.predict(image, out)]


def test_an_assembled_model_gives_one_label_map_or_one_mask_for_each_class(assembled, image, tmp_path):
    masks = predicted(assembled, image, tmp_path / "ct_labels.nii.gz", rule="per-head")
    names = sorted(path.name for path in tmp_path.glob("ct_*"))
    assert names == ["ct_kidney_labels.nii.gz", "ct_liver_labels.nii.gz", "ct_spleen_labels.nii.gz"]
    assert all(np.unique(mask).tolist() == [0, 1] for mask in masks)
    liver, spleen, kidney = (mask.astype(bool) for mask in masks)
    assert (liver & spleen).any(), "random heads overlap"
    (label,) = predicted(assembled, image, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(label > 0, liver | spleen | kidney)
    for channel, mask in ((1, liver), (2, spleen), (4, kidney)):
        assert mask[label == channel].all()
    (label,) = predicted(assembled, image, tmp_path / "first.nii.gz", rule="priority", priority=("spleen", "liver"))
    np.testing.assert_array_equal(label, np.select([spleen, liver, kidney], [2, 1, 4]))


def test_the_uncertainty_rule_says_the_same_of_an_image_again(assembled, image, tmp_path):
    predictor = Predictor(assembled, device="cpu", fusion=Fusion(rule="uncertainty", passes=2))
    first, second = (labels_of(predictor.predict(image, tmp_path / name)[0]) for name in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_array_equal(first, second)
    (certain,) = predicted(assembled, image, tmp_path / "c.nii.gz")
    assert (first != certain).any()


def test_a_fusion_without_heads_is_refused(model):
    with pytest.raises(ConfigError, match="a model with heads for --fusion"):
        Predictor(model, device="cpu", fusion=Fusion())


def test_an_unknown_class_is_refused_before_anything_is_computed(assembled):
    with pytest.raises(ConfigError, match="'lung'"):
        Predictor(assembled, device="cpu", fusion=Fusion(rule="priority", priority=("lung",)))


def test_a_model_with_the_shared_part_only_is_refused(small, tmp_path):
    trunk = {n: t for n, t in random_state(["liver"], seed=0).items() if n.startswith("trunk.")}
    save_model(tmp_path / "m.safetensors", trunk, model_info(small, 1))
    with pytest.raises(ConfigError, match="collected when a run ends"):
        Predictor(tmp_path / "m.safetensors", device="cpu")


def test_a_sites_own_model_with_its_heads_is_a_model_of_one_site(small, image, tmp_path):
    save_model(tmp_path / "local.safetensors", random_state(["spleen", "kidney"], seed=1), model_info(small, 1))
    (label,) = predicted(tmp_path / "local.safetensors", image, tmp_path / "ct.nii.gz")
    spleen, kidney = predicted(tmp_path / "local.safetensors", image, tmp_path / "ct.nii.gz", rule="per-head")
    assert set(np.unique(label)) == {0, 2, 4}
    np.testing.assert_array_equal(label > 0, (spleen | kidney) > 0)


def test_an_incomplete_assembled_model_names_site_and_tensor(assembled, tmp_path):
    weights, info = load_model(assembled)
    del weights["south/heads.kidney.0.conv.bias"]
    save_model(tmp_path / "m.safetensors", weights, info)
    with pytest.raises(ConfigError, match=r"'south'.*heads\.kidney\.0\.conv\.bias"):
        Predictor(tmp_path / "m.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("ct_labels.nii.gz", "ct_liver_labels.nii.gz"),
        ("mine.nii", "mine_liver.nii"),
        ("_labels.nii", "_liver_labels.nii"),
    ],
)
def test_the_file_of_a_class(tmp_path, out, expected):
    assert class_path(tmp_path / out, "liver") == tmp_path / expected
