"""A model file applied to a volume: channels of the label space on its grid, every fusion, as in training."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_hospital import write_nifti

from federation import TINY, tiny_plan
from fedpartial import presets
from fedpartial.data.preprocess import load_image, preprocess_image, restore_logits
from fedpartial.errors import ConfigError
from fedpartial.inference.models import known_channels
from fedpartial.inference.predictor import Predictor, class_path
from fedpartial.networks.assembled import assemble
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.fusion import Fusion
from fedpartial.training.evaluator import predict_logits
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


def test_the_labels_have_the_shape_of_the_volume(model, image):
    label = Predictor(model, device="cpu").segment(load_image(image))
    assert label.shape == SHAPE
    assert label.dtype == np.uint8
    assert np.unique(label).tolist() == [TINY.label_space.index("spleen")]


def test_the_labels_are_those_of_the_evaluation_in_training(assembled, image):
    """One way to labels: the report's scores and a user's prediction come from the same network and grid."""
    predictor, volume = Predictor(assembled, device="cpu"), load_image(image)
    prepared = preprocess_image(volume, predictor.preset)
    scores = predict_logits(predictor.network, prepared.array, predictor.preset, predictor.precision)
    expected = restore_logits(scores, prepared.affine, SHAPE, volume.affine, decide=predictor.decide)
    found = predictor.segment(volume)
    assert len(np.unique(expected)) > 2
    assert (found != expected).mean() < 2e-3, "ties only"


def test_a_class_that_nobody_annotated_is_no_class_of_the_model(model, image):
    """Its network says spleen everywhere; with nobody's spleen behind it, that is background."""
    weights, _ = load_model(model)
    save_model(model, weights, model_info(tiny_plan(), 2, annotated={"liver", "liver_tumor", "kidney"}))
    predictor = Predictor(model, device="cpu")
    assert list(predictor.names.values()) == ["liver", "liver_tumor", "kidney"]
    assert not predictor.segment(load_image(image)).any()


def test_a_model_that_does_not_say_what_was_annotated_is_remarked(model, assembled):
    assert "does not say which classes were annotated" in Predictor(model, device="cpu").remark
    assert Predictor(assembled, device="cpu").remark is None, "a head is there for each class that was taught"
    weights, _ = load_model(model)
    save_model(model, weights, model_info(tiny_plan(), 2, annotated=TINY.label_space.classes))
    assert Predictor(model, device="cpu").remark is None


def test_a_joint_head_knows_all_classes_and_private_heads_their_own():
    joint, private = build_network(SMALL, seed=0), build_network(SMALL, seed=0, head_classes=["spleen", "liver"])
    assert known_channels(joint, SMALL) == list(range(1, SMALL.label_space.num_channels))
    assert known_channels(private, SMALL) == sorted(SMALL.label_space.index(name) for name in ("liver", "spleen"))


def test_progress_ends_with_all_windows(model, image):
    seen = []
    Predictor(model, device="cpu").segment(load_image(image), lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] > 0


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


def predicted(model, image, **fusion) -> np.ndarray:
    return Predictor(model, device="cpu", fusion=Fusion(**fusion) if fusion else None).segment(load_image(image))


def test_an_assembled_model_gives_one_label_map_or_one_mask_for_each_class(assembled, image):
    masks = predicted(assembled, image, rule="per-head")
    names = Predictor(assembled, device="cpu").per_head_names
    assert names == {1: "liver", 2: "spleen", 4: "kidney"}
    assert masks.shape == (SMALL.label_space.num_channels, *SHAPE)
    assert not np.delete(masks, list(names), axis=0).any()
    liver, spleen, kidney = (masks[channel].astype(bool) for channel in names)
    assert (liver & spleen).any(), "random heads overlap"
    label = predicted(assembled, image)
    np.testing.assert_array_equal(label > 0, liver | spleen | kidney)
    for channel, mask in ((1, liver), (2, spleen), (4, kidney)):
        assert mask[label == channel].all()
    label = predicted(assembled, image, rule="priority", priority=("spleen", "liver"))
    np.testing.assert_array_equal(label, np.select([spleen, liver, kidney], [2, 1, 4]))


def test_a_model_names_the_classes_that_it_knows(model, assembled):
    names = Predictor(model, device="cpu").names
    assert list(names.values()) == list(TINY.label_space.classes)
    assert names[TINY.label_space.index("spleen")] == "spleen"
    assert Predictor(model, device="cpu").per_head_names == {}
    assert Predictor(assembled, device="cpu").names == {1: "liver", 2: "spleen", 4: "kidney"}


def test_the_uncertainty_rule_says_the_same_of_an_image_again_and_as_training_does(assembled, image):
    predictor, volume = (
        Predictor(assembled, device="cpu", fusion=Fusion(rule="uncertainty", passes=2)),
        load_image(image),
    )
    first, second = predictor.segment(volume), predictor.segment(volume)
    np.testing.assert_array_equal(first, second)
    assert (first != predicted(assembled, image)).any()
    prepared = preprocess_image(volume, predictor.preset)
    network = predictor.fusion.network(predictor.network)
    scores = predict_logits(network, prepared.array, predictor.preset, predictor.precision)
    expected = restore_logits(scores, prepared.affine, SHAPE, volume.affine, decide=predictor.decide)
    assert (first != expected).mean() < 2e-3, "the same random numbers, but for ties"


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
    label = predicted(tmp_path / "local.safetensors", image)
    spleen, kidney = predicted(tmp_path / "local.safetensors", image, rule="per-head")[[2, 4]]
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
