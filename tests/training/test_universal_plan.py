"""The universal network in rounds (FedAvg, central training), and what a plan says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedpartial.errors import ConfigError
from fedpartial.methods.mmds import Mmds
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.universal import universal_classes
from fedpartial.presets import get_preset
from fedpartial.server.aggregation import weighted_mean
from fedpartial.server.update_check import UpdateRefused, check_update
from fedpartial.sites import SitePool
from fedpartial.training.plan import Plan, differs_in_network_only
from fedpartial.training.site_session import SiteSession
from one_round import home, stage_plan, stage_sites, universal  # noqa: F401

CLASSES = ("liver", "spleen")


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("rounds"))


def rounds_plan(**changes) -> Plan:
    """As of jobs/mmds_fedavg."""
    return stage_plan(**{"federation": "", "num_rounds": 2, "local_steps": 1, "classes": CLASSES, **changes})


def session(site, plan: Plan, folder) -> SiteSession:
    return SiteSession(site=site, plan=plan, method=Mmds(), state_dir=folder / site.name)


def start(plan: Plan) -> dict[str, np.ndarray]:
    network = build_network(plan.config, seed=plan.seed, head_classes=plan.head_classes)
    return {name: tensor.numpy() for name, tensor in canonical_state(network).items()}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


def test_rounds_train_a_network_of_the_plans_classes_at_every_site(sites, tmp_path):
    plan = rounds_plan()
    weights, at = start(plan), {name: session(site, plan, tmp_path) for name, site in sites.items()}
    assert universal_classes(weights) == CLASSES
    for number in range(plan.num_rounds):
        updates = {}
        for name, one in at.items():
            done = one.train(tensors(weights), number, lambda: False)
            updates[name] = {n: tensor.numpy() for n, tensor in done.update.items()}
            check_update(name, updates[name], weights, done.num_steps)
        moved = {name: any(value.any() for value in update.values()) for name, update in updates.items()}
        assert moved.pop("liver")
        assert moved.pop("spleen")
        change = weighted_mean(updates, dict.fromkeys(updates, 1.0))
        weights = {n: value + change[n] for n, value in weights.items()}
    vectors = {n: v for n, v in start(plan).items() if n.startswith("embeddings.")}
    assert all(np.array_equal(weights[name], vector) for name, vector in vectors.items())


def test_an_update_with_another_class_is_refused(sites, tmp_path):
    plan, other = rounds_plan(), rounds_plan(classes=("liver", "kidney"))
    update = session(sites["liver"], other, tmp_path).train(tensors(start(other)), 0, lambda: False).update
    with pytest.raises(UpdateRefused, match=r"embeddings\.spleen"):
        check_update("liver", {n: t.numpy() for n, t in update.items()}, start(plan), 1)


def test_without_classes_the_network_has_all_of_the_label_space(sites, tmp_path):
    plan = rounds_plan(classes=())
    assert session(sites["liver"], plan, tmp_path).head_classes == plan.config.label_space.classes


def test_test_scores_are_of_the_models_classes_only(sites, tmp_path):
    plan = rounds_plan()
    (scores,) = session(sites["liver"], plan, tmp_path).score(tensors(start(plan)))
    assert set(scores.classes) == {"liver"}  # it annotates liver_tumor too, which this network does not know


def test_a_pool_restricts_the_cases_of_the_member_that_is_named(sites, tmp_path):
    pool = SitePool(
        name="central",
        source="site file",
        where="sites/central.json",
        members=tuple(sites.values()),
        device="cpu",
        model_dir=tmp_path / "models",
    )
    plan = rounds_plan(classes=(), site_classes={"amos": ["kidney"]})
    central = session(pool, plan, tmp_path)
    space = plan.config.label_space
    for split, amos in (("training", {"kidney"}), ("validation", {"kidney"}), ("testing", {"kidney", "aorta"})):
        annotated = [frozenset(space.names(case.labelled)) for case in central.split(split)]
        assert set(annotated) == {frozenset({"liver", "liver_tumor"}), frozenset({"spleen"}), frozenset(amos)}
    done = central.train(tensors(start(plan)), 0, lambda: False)
    assert done.num_steps == plan.schedule.pooled(3).local_steps


def test_training_alone_has_the_classes_that_are_asked_for(sites, tmp_path):
    assert session(sites["amos"], stage_plan(), tmp_path).head_classes == ("kidney", "aorta")
    plan = stage_plan(site_classes={"amos": ["aorta"], "liver": ["liver"]})
    amos = session(sites["amos"], plan, tmp_path)
    assert amos.head_classes == ("aorta",)
    weights = canonical_state(build_network(plan.config, seed=3, head_classes=("kidney", "aorta")))
    assert set(amos.validation_scores(weights)) == {"aorta"}
    (scores,) = amos.score(weights)
    assert set(scores.classes) == {"kidney", "aorta"}


def test_a_plan_travels_as_plain_values():
    plan = stage_plan(
        classes=["spleen", "liver"], site_classes={"amos": ["aorta"]}, site_presets={"liver": "tiny_deeper"}
    )
    assert plan.classes == CLASSES
    assert Plan.from_dict(plan.to_dict()) == plan
    old = {name: value for name, value in rounds_plan(classes=()).to_dict().items() if not name.startswith("site_")}
    assert Plan.from_stored(old) == rounds_plan(classes=())


def test_a_sites_plan_has_its_preset():
    plan = stage_plan(site_presets={"liver": "tiny_deeper"})
    assert (plan.for_site("liver").preset, plan.for_site("spleen").preset) == ("tiny_deeper", "tiny_universal")
    assert not plan.for_site("liver").site_presets


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ["lung"]),
        ("classes", ["liver", "liver"]),
        ("classes", "liver"),
        ("site_classes", {"amos": ["lung"]}),
        ("site_classes", ["amos"]),
        ("site_presets", {"amos": "phantom_mmds"}),  # another grid
        ("site_presets", {"amos": "phantom"}),
        ("site_presets", ["tiny_deeper"]),
        ("federation", "../elsewhere"),
        ("federation", "a" * 65),
        ("federation", None),
        ("preset", "phantom"),
    ],
)
def test_a_wrong_plan_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ConfigError, match=f"job: {field}: got "):
        stage_plan(**{field: value})


def test_two_presets_may_stand_side_by_side_if_only_the_network_differs():
    tiny = get_preset("tiny_universal")
    assert differs_in_network_only(tiny, get_preset("tiny_deeper"))
    assert differs_in_network_only(tiny, tiny)
    for change in ({"patch": (8, 8, 8)}, {"spacing_mm": (1.0, 1.0, 1.0)}, {"window_hu": (0.0, 1.0)}):
        assert not differs_in_network_only(tiny, replace(tiny, **change))
