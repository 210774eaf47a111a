"""One site at work, from its files to its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_hospital import write_nifti

from federation import TINY, tiny_plan
from fedpartial.data.integrity import DataFaults
from fedpartial.errors import ConfigError
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.canonical import canonical_state, canonical_tensors
from fedpartial.networks.dynunet import build_network
from fedpartial.training.site_session import SiteSession


@pytest.fixture
def session(tiny, tiny_sites, tmp_path):
    return SiteSession(site=tiny_sites["liver"], plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path)


@pytest.fixture
def weights():
    return canonical_state(build_network(TINY, seed=0))


def test_the_splits_of_the_site(session):
    assert [len(session.split(name)) for name in ("training", "validation", "testing")] == [2, 1, 1]
    assert session.scored_cases == session.split("testing")
    assert session.setup_seconds > 0


def test_scores_cover_the_sites_own_classes(session, weights):
    assert set(session.validation_scores(weights)) <= {"liver", "liver_tumor"}
    (scores,) = session.score(weights)
    assert scores.classes == ("liver", "liver_tumor")


def test_the_reference_is_the_label_file_in_channels(session):
    reference = session.reference(session.scored_cases[0])
    assert reference.shape == (16, 14, 12)
    assert np.bincount(reference.ravel()).tolist() == [16 * 14 * 12 - 100, 92, 8]
    assert np.array_equal(session.score_prediction(session.scored_cases[0], reference).dice["liver"], 1.0)


def test_a_site_without_test_cases_is_scored_on_its_validation_cases(session):
    session.cases = {**session.cases, "testing": ()}
    assert session.scored_cases == session.split("validation")


def test_evaluating_between_rounds_does_not_touch_the_training(session, weights):
    session.train(weights, 0, lambda: False)
    before = {name: tensor.clone() for name, tensor in canonical_tensors(session.trainer.network).items()}
    other = canonical_state(build_network(TINY, seed=9))
    session.validation_scores(other)
    session.score(other)
    after = canonical_tensors(session.trainer.network)
    assert all((before[name] == after[name]).all() for name in before)


def test_stop_ends_the_scoring(session, weights):
    assert session.score(weights, lambda: True) == []
    assert session.validation_scores(weights, lambda: True) == {}


@pytest.mark.parametrize(("change", "field"), [({"labels": {1: "lever"}}, "labels"), ({"device": "quantum"}, "device")])
def test_a_wrong_site_is_found_before_training(tiny, tiny_sites, tmp_path, change, field):
    with pytest.raises(ConfigError) as caught:
        SiteSession(site=replace(tiny_sites["liver"], **change), plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path)
    assert caught.value.field == field


def test_faulty_data_is_found_before_training(tiny, tiny_sites, tmp_path):
    root = tmp_path / "data"
    write_nifti(root / "a.nii.gz", np.full((4, 4, 4), np.nan, np.float32))
    write_nifti(root / "l.nii.gz", np.ones((4, 4, 4), np.uint8))
    (root / "datalist.json").write_text('{"training": [{"image": "a.nii.gz", "label": "l.nii.gz"}]}')
    site = replace(tiny_sites["liver"], data_root=root, datalist=root / "datalist.json", cache_dir=tmp_path / "cache")
    with pytest.raises(DataFaults):
        SiteSession(site=site, plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path)
