"""One site at work, from its files to its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_hospital import write_case, write_nifti, write_site

from federation import TINY, tiny_plan
from fedpartial.errors import ConfigError, DataFaults
from fedpartial.methods.fedavg import FedAvg
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state, canonical_tensors
from fedpartial.sites import SitePool
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


# --- scores with lesions counted as their organ -------------------------------------------------------


@pytest.fixture
def half_right(session):
    """The session's test case, and a prediction: half of the lesion missed, the organ grown by one slice."""
    (case,) = session.scored_cases
    prediction = session.reference(case).copy()
    prediction[5, 5:7, 4:6] = 0
    prediction[9, 4:8, 3:8] = 2
    return case, prediction


def test_lesions_count_as_their_organ_in_prediction_and_reference(session, half_right):
    """Reference: 92 voxels of liver, 8 of its lesion. Prediction: 92, and 4 + 20 beside them as lesion."""
    case, prediction = half_right
    apart, merged = (session.score_prediction(case, prediction, organs=organs) for organs in (False, True))
    assert apart.dice == {"liver": 1.0, "liver_tumor": 2 * 4 / (8 + 24)}
    assert merged.dice == {"liver": 2 * 96 / (100 + 116)}


@pytest.mark.parametrize(
    ("asked", "apart", "merged"),
    [
        (("liver", "liver_tumor", "spleen"), ("liver", "liver_tumor"), ("liver",)),
        (("liver",), ("liver",), ("liver",)),
        (("liver_tumor",), ("liver_tumor",), ()),
        (("spleen",), (), ()),
    ],
)
def test_only_the_classes_that_are_asked_for_and_annotated_are_scored(session, half_right, asked, apart, merged):
    found = [session.score_prediction(*half_right, organs=organs, classes=asked).classes for organs in (False, True)]
    assert found == [apart, merged]


def test_an_organ_that_a_case_does_not_annotate_has_no_merged_score(session, half_right):
    case, prediction = half_right
    lesion_only = replace(case, labelled=session.preset.label_space.labelled_mask(["liver_tumor"]))
    assert session.score_prediction(lesion_only, prediction, organs=True).classes == ()


# --- pools --------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tiny_sites, tmp_path):
    members = tuple(tiny_sites[name] for name in ("liver", "spleen"))
    where = {"where": "sites/central.json", "model_dir": tmp_path}
    return SitePool(name="central", source="site file", members=members, device="cpu", **where)


@pytest.fixture
def pooled(tiny, pool, tmp_path):
    return SiteSession(site=pool, plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path)


def test_a_pool_holds_the_cases_of_all_members_each_with_its_own_mask(pooled, tiny_sites, tmp_path):
    space = pooled.preset.label_space
    for split, number in (("training", 4), ("validation", 2), ("testing", 2)):
        cases = pooled.split(split)
        assert len(cases) == number
        names = [space.names(case.labelled) for case in cases]
        assert names == [("liver", "liver_tumor")] * (number // 2) + [("spleen",)] * (number // 2)


def test_a_pool_reads_every_label_file_with_the_table_of_its_site(pooled):
    """The value 1 is the liver at one site and the spleen at the other."""
    liver, spleen = (np.unique(pooled.reference(case)).tolist() for case in pooled.scored_cases)
    space = pooled.preset.label_space
    assert liver == [0, space.index("liver"), space.index("liver_tumor")]
    assert spleen == [0, space.index("spleen")]


def test_members_may_share_a_label_file_and_read_it_each_in_its_own_way(tiny, pool, tmp_path):
    """As when one set of complete labels is dealt out to several sites."""
    entries = {split: [write_case(tmp_path / "data", split, seed=len(split))] for split in ("training", "testing")}
    sites = [
        replace(write_site(tmp_path / "data", entries, labels), name=name, device="cpu")
        for name, labels in (("a", {1: "liver", 2: "liver_tumor"}), ("b", {1: "spleen", 2: "background"}))
    ]
    pool = replace(pool, members=tuple(sites))
    session = SiteSession(site=pool, plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path / "state")
    assert len({case.label_path for case in session.scored_cases}) == 1
    assert [int(session.reference(case).max()) for case in session.scored_cases] == [2, 3]


def test_a_pool_trains_as_many_steps_as_its_sites_together_on_all_their_cases(pooled, weights):
    plan = pooled.plan
    schedule = pooled.trainer.schedule
    assert (schedule.num_rounds, schedule.local_steps) == (plan.num_rounds, 2 * plan.local_steps)
    sampler = pooled.trainer.sampler
    assert sampler.cases == tuple(pooled.split("training"))
    one_epoch = [sampler.batch(step).labelled for step in range(4)]
    assert {tuple(row) for labelled in one_epoch for row in labelled.tolist()} == {
        tuple(case.labelled.tolist()) for case in pooled.split("training")
    }
    assert pooled.train(weights, 0, lambda: False).num_steps == 2 * plan.local_steps


def test_a_pool_is_scored_on_the_classes_of_all_members(pooled, weights):
    assert [scores.classes for scores in pooled.score(weights)] == [("liver", "liver_tumor"), ("spleen",)]


def test_a_pool_of_one_site_trains_as_that_site(tiny, pool, tiny_sites, weights, tmp_path):
    """The seed of the patches goes by the name, so the pool takes the name of its site here."""
    alone = replace(pool, name="liver", members=pool.members[:1])
    sessions = [
        SiteSession(site=site, plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path / str(i))
        for i, site in enumerate((tiny_sites["liver"], alone))
    ]
    ours, theirs = (session.train(weights, 0, lambda: False).update for session in sessions)
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_wrong_member_is_found_before_training(tiny, pool, tmp_path):
    wrong = replace(pool.members[1], labels={1: "lever"}, where="sites/spleen.json")
    with pytest.raises(ConfigError) as caught:
        SiteSession(
            site=replace(pool, members=(pool.members[0], wrong)), plan=tiny_plan(), method=FedAvg(), state_dir=tmp_path
        )
    assert caught.value.where == "sites/spleen.json"
