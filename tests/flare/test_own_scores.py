"""Which of a site's own models are scored beside the global one: none that cannot stand beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from one_stage import StageHospital

from fedpartial import presets
from fedpartial.flare.lone_learner import FINAL, OWN, PERSONALISED
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.site_executor import LEARN, RECEIVE
from fedpartial.methods.mmds import Mmds
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.model_file import load_model, save_model
from fedpartial.training.own_models import OwnModels
from one_round import FEDERATION, TINY_UNIVERSAL, home, stage_plan, stage_sites, universal  # noqa: F401

ELSEWHERE = replace(TINY_UNIVERSAL, name="tiny_elsewhere", window_hu=(-500.0, 500.0))


class Site:
    """The liver hospital, after it has trained and uploaded its model."""

    def __init__(self, site, root: Path):
        self.own = OwnModels(site.model_dir, FEDERATION, site.name)
        self.hospital = StageHospital(site, Mmds(), root / "job", lasting=True)
        learnt = self._ask(LEARN, {})
        assert learnt.get_return_code() == ReturnCode.OK

    def _ask(self, task: str, data: dict):
        message = DXO(data_kind=DataKind.WEIGHTS, data=data).to_shareable()
        RunPlan(**stage_plan(local_steps=2).to_dict()).attach(message)
        return self.hospital.execute(task, message)

    def scored(self) -> set[str]:
        """The models of which it answers scores when it gets a global one."""
        network = build_network(TINY_UNIVERSAL, seed=5, head_classes=("liver", "liver_tumor", "spleen"))
        weights = {name: np.asarray(tensor) for name, tensor in canonical_state(network).items()}
        answer = self._ask(RECEIVE, weights)
        assert answer.get_return_code() == ReturnCode.OK
        return set(from_shareable(answer).data["testing"])


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    monkeypatch.setitem(presets.PRESETS, ELSEWHERE.name, ELSEWHERE)
    liver = stage_sites(tmp_path / "data")["liver"]
    configured = replace(liver, model_dir=tmp_path / "models")
    monkeypatch.setattr("fedpartial.flare.lone_learner.read_site", lambda *_: configured)
    monkeypatch.setattr("fedpartial.flare.learner.read_site", lambda *_: configured)
    return Site(configured, tmp_path)


def test_a_model_of_the_same_preset_is_scored_by_itself_and_with_the_global_one(site):
    assert site.scored() == {FINAL, OWN, PERSONALISED}


def test_a_local_model_of_another_preset_is_left_out_with_a_sentence(site, caplog):
    weights, info = load_model(site.own.local)
    save_model(site.own.local, weights, replace(info, plan={**info.plan, "preset": ELSEWHERE.name}))
    assert site.scored() == {FINAL}
    assert "own models are not scored: the local one, of preset tiny_elsewhere, differs from the global" in caplog.text


@pytest.mark.parametrize("content", [b"", b"damaged", json.dumps({}).encode()])
def test_a_damaged_local_model_costs_its_own_scores_only(site, caplog, content):
    site.own.local.write_bytes(content)
    assert site.scored() == {FINAL}
    assert "own models are not scored: the local one cannot be used" in caplog.text
