"""A global and a local model file applied together: who answers on the image's grid, what cannot go together."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_hospital import write_nifti

from federation import TINY, tiny_plan
from fedpartial import presets
from fedpartial.data.preprocess import load_image
from fedpartial.errors import ConfigError
from fedpartial.inference.models import load_network
from fedpartial.inference.predictor import Predictor
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.presets import UniversalConfig
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan

UNIVERSAL = replace(
    TINY,
    name="tiny_universal",
    patch=(8, 8, 8),
    network=UniversalConfig(extractor="unet", channels=(4, 8), embedding=8, global_features=4),
)
WIDER = replace(UNIVERSAL, name="tiny_wider", network=replace(UNIVERSAL.network, channels=(6, 8)))
COARSER = replace(UNIVERSAL, name="tiny_coarser", spacing_mm=(3.0, 3.0, 3.0), window_hu=(-100.0, 100.0))
SPACE = UNIVERSAL.label_space
AFFINE = np.array([[0.0, -3.0, 0, 20], [-2.5, 0, 0, 30], [0, 0, 4.0, -5], [0, 0, 0, 1]])
SHAPE = (7, 8, 6)
OWN = ("liver", "spleen")


@pytest.fixture(autouse=True)
def known(tiny, monkeypatch):
    for preset in (UNIVERSAL, WIDER, COARSER):
        monkeypatch.setitem(presets.PRESETS, preset.name, preset)


@pytest.fixture
def model(tmp_path):
    """``model("local", OWN)``: a file with random weights, noisy enough for labels of several classes."""

    def write(name: str, classes=SPACE.classes, preset=UNIVERSAL, seed=0):
        network = build_network(preset, seed=seed, head_classes=classes)
        rng = np.random.default_rng(seed)
        state = {n: t.numpy() for n, t in canonical_state(network).items()}
        spread = {n: v + 0.5 * rng.standard_normal(v.shape).astype(np.float32) for n, v in state.items()}
        plan = Plan(job="mmds", preset=preset.name, num_rounds=1, local_steps=1)
        kept = {n: state[n] if n.startswith("embeddings.") else v for n, v in spread.items()}
        save_model(tmp_path / f"{name}.safetensors", kept, model_info(plan, 1))
        return tmp_path / f"{name}.safetensors"

    return write


@pytest.fixture
def image(tmp_path):
    return write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(0, 90, SHAPE).astype(np.int16), AFFINE)


def labels(image, *models) -> np.ndarray:
    predictor = Predictor(models[0], device="cpu", local_path=models[1] if len(models) > 1 else None)
    return predictor.segment(load_image(image))


def test_a_model_has_the_classes_that_its_tensors_name(model):
    network, _ = load_network(model("local", OWN))
    assert network.head_channels == tuple(SPACE.index(name) for name in OWN)
    assert load_network(model("all"))[0].head_channels == tuple(range(1, SPACE.num_channels))


def test_on_the_images_grid_local_labels_stand_and_the_global_ones_fill_their_background(model, image, tmp_path):
    global_, local = model("global", preset=WIDER, seed=1), model("local", OWN, seed=2)
    alone = labels(image, local)
    both = labels(image, global_, local)
    assert both.shape == SHAPE
    own, lesion = [SPACE.index(name) for name in OWN], SPACE.index("liver_tumor")
    in_liver = (alone == SPACE.index("liver")) & (both == lesion)
    stays = np.isin(alone, own) & ~in_liver
    assert stays.any()
    np.testing.assert_array_equal(both[stays], alone[stays])
    assert not np.isin(both[alone == 0], own).any(), "no class of the local model comes from the global one"
    others = set(np.unique(both[alone == 0])) - {0}
    assert others, "the global model's classes stand in the local background"


def test_two_models_of_the_same_weights_say_what_one_says_of_disjoint_classes(model, image, tmp_path):
    """Interpolated scores are decided on the image's grid: the same file cut in two gives the same spleen."""
    whole = model("whole", seed=3)
    weights, info = load_model(whole)
    part = {n: v for n, v in weights.items() if not n.startswith("embeddings.") or n == "embeddings.spleen"}
    save_model(tmp_path / "part.safetensors", part, info)
    alone = labels(image, tmp_path / "part.safetensors")
    both = labels(image, whole, tmp_path / "part.safetensors")
    np.testing.assert_array_equal(both == SPACE.index("spleen"), alone == SPACE.index("spleen"))


def test_a_local_model_with_every_class_answers_alone_and_the_user_is_told(model, image, tmp_path):
    global_, local = model("global", OWN, seed=1), model("local", seed=2)
    both = labels(image, global_, local)
    np.testing.assert_array_equal(both, labels(image, local))
    assert "right way round" in Predictor(global_, device="cpu", local_path=local).remark
    assert Predictor(local, device="cpu", local_path=global_).remark is None
    assert Predictor(local, device="cpu").remark is None


def refusal(*models) -> str:
    with pytest.raises(ConfigError) as raised:
        Predictor(models[0], device="cpu", local_path=models[1])
    return str(raised.value)


def test_the_same_file_twice_is_refused(model, tmp_path):
    path = model("global")
    (tmp_path / "link.safetensors").symlink_to(path)
    assert "got 'the global model'" in refusal(path, path)
    assert "got 'the global model'" in refusal(path, tmp_path / "link.safetensors")
    shutil.copy(path, tmp_path / "copy.safetensors")
    assert Predictor(path, device="cpu", local_path=tmp_path / "copy.safetensors").remark


def test_models_of_different_grids_are_refused_and_the_difference_is_named(model):
    text = refusal(model("global"), model("local", OWN, preset=COARSER))
    assert "another spacing_mm, window_hu" in text
    assert "local.safetensors" in text


def test_a_model_that_does_not_say_its_classes_is_refused_on_either_side(model, tmp_path):
    state = {n: t.numpy() for n, t in canonical_state(build_network(TINY, seed=0)).items()}
    save_model(tmp_path / "dynunet.safetensors", state, model_info(tiny_plan(), 2))
    for pair in ((model("u"), tmp_path / "dynunet.safetensors"), (tmp_path / "dynunet.safetensors", model("u"))):
        text = refusal(*pair)
        assert "dynunet.safetensors" in text
        assert "universal network" in text


@pytest.mark.parametrize(("names", "words"), [((), "no embedding of any class"), (("lung",), "'lung'")])
def test_a_model_of_no_class_or_of_a_foreign_one_is_refused(model, tmp_path, names, words):
    weights, info = load_model(model("m"))
    odd = {n: v for n, v in weights.items() if not n.startswith("embeddings.")}
    odd |= {f"embeddings.{name}": np.zeros(8, dtype=np.float32) for name in names}
    save_model(tmp_path / "odd.safetensors", odd, info)
    with pytest.raises(ConfigError, match=words):
        load_network(tmp_path / "odd.safetensors")


def test_a_fusion_is_for_heads_and_not_for_two_models(model):
    from fedpartial.networks.fusion import Fusion

    with pytest.raises(ConfigError, match="a model with heads for --fusion"):
        Predictor(model("global"), device="cpu", fusion=Fusion(), local_path=model("local", OWN))


def test_a_missing_local_model_is_named(model, tmp_path):
    assert "nobody.safetensors" in refusal(model("global"), tmp_path / "nobody.safetensors")
