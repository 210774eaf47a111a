"""What the server believes of a site's whole model before it goes into the store."""

from __future__ import annotations

import numpy as np
import pytest

from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.embeddings import class_embedding
from fedpartial.networks.universal import EMBEDDINGS
from fedpartial.server.local_models import check_local_model
from fedpartial.server.update_check import UpdateRefused
from one_round import LENGTH, TINY_DEEPER, TINY_UNIVERSAL, home, stage_plan, universal  # noqa: F401

LIVER, TUMOR = f"{EMBEDDINGS}liver", f"{EMBEDDINGS}liver_tumor"


def model(*classes: str, preset=TINY_UNIVERSAL, seed: int = 9) -> dict[str, np.ndarray]:
    """As a site with these classes would send it."""
    network = build_network(preset, seed=seed, head_classes=classes or ("liver", "liver_tumor"))
    return {name: tensor.numpy().copy() for name, tensor in canonical_state(network).items()}


def check(given: object, vectors: dict | None = None, **plan) -> tuple[str, ...]:
    return check_local_model("liver", given, stage_plan(**plan), vectors or {})


@pytest.mark.parametrize(
    "classes", [("liver",), ("liver", "liver_tumor"), ("aorta", "spleen"), TINY_UNIVERSAL.label_space.classes]
)
def test_a_model_of_any_classes_of_the_label_space_is_taken(classes):
    assert set(check(model(*classes))) == set(classes)


def test_the_order_of_the_tensors_does_not_matter():
    given = model()
    assert set(check(dict(reversed(given.items())))) == {"liver", "liver_tumor"}


def test_a_site_with_a_network_of_its_own_is_checked_against_it():
    plan = {"site_presets": {"liver": "tiny_deeper"}}
    assert check(model(preset=TINY_DEEPER), **plan)
    with pytest.raises(UpdateRefused, match=r"model of liver refused: \d+ tensor"):
        check(model(), **plan)
    with pytest.raises(UpdateRefused, match=r"model of liver refused: \d+ (unknown )?tensor|got shape"):
        check(model(preset=TINY_DEEPER))


def test_fewer_classes_than_asked_for_are_taken_and_more_are_not():
    assert check(model("liver"), site_classes={"liver": ["liver", "liver_tumor"]}) == ("liver",)
    assert check(model(), site_classes={"spleen": ["spleen"]})
    with pytest.raises(UpdateRefused, match="model of liver refused: it has 'liver_tumor', which was not asked for"):
        check(model(), site_classes={"liver": ["liver"]})


def test_vectors_that_the_server_gave_are_expected_and_seeded_ones_elsewhere():
    given = {"liver": class_embedding("another", LENGTH)}
    state = model()
    with pytest.raises(UpdateRefused, match=rf"tensor '{LIVER}' is not the vector of that class here"):
        check(state, given)
    state[LIVER] = given["liver"]
    assert check(state, given)
    with pytest.raises(UpdateRefused, match=f"tensor '{LIVER}' is not"):
        check(state)
    state[TUMOR] = given["liver"]
    with pytest.raises(UpdateRefused, match=f"tensor '{TUMOR}' is not"):
        check(state, given)


def without_classes() -> dict:
    return {name: value for name, value in model().items() if not name.startswith(EMBEDDINGS)}


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        [1.0],
        {1: np.ones(1)},
        {},
        {"x": np.ones(1)},
        without_classes,
        lambda: model() | {f"{EMBEDDINGS}lung": np.ones(8)},
    ],
    ids=["none", "number", "list", "no names", "empty", "another", "no class", "foreign class"],
)
def test_what_is_no_universal_network_of_the_label_space_is_refused(given):
    with pytest.raises(UpdateRefused, match="model of liver refused: "):
        check(given() if callable(given) else given)


@pytest.mark.parametrize("name", [LIVER, "head.2.weight", "controller.bias"])
def test_every_tensor_is_checked(name):
    for spoil in (lambda v: v * np.nan, lambda v: v[..., None], lambda v: v.astype(np.int64), lambda v: v.tolist()):
        state = model()
        state[name] = spoil(state[name])
        with pytest.raises(UpdateRefused, match=f"^model of liver refused: tensor '{name}': "):
            check(state)
    state = model()
    if name != LIVER:  # without it the model has a class less, and that is a whole model
        del state[name]
        with pytest.raises(UpdateRefused, match=f"^model of liver refused: 1 tensor\\(s\\) missing, first '{name}'"):
            check(state)
