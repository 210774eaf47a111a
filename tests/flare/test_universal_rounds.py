"""FedAvg with the universal network over FLARE's workflows (jobs/mmds_fedavg): a network of the plan's classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import Hospital, Server
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from test_private_heads_faults import Changed, content

from fedpartial.evaluation import page
from fedpartial.flare.persistor import GLOBAL_MODEL
from fedpartial.methods.mmds import Mmds
from fedpartial.networks.universal import universal_classes
from fedpartial.training.model_file import load_model
from one_round import home, stage_sites, universal  # noqa: F401

PLAN = {"preset": "tiny_universal", "num_rounds": 2, "local_steps": 1}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return stage_sites(tmp_path_factory.mktemp("rounds"))


@pytest.fixture
def make(sites, tmp_path, monkeypatch):
    """Builds a server of liver and spleen: ``make(classes=["liver"])``."""
    monkeypatch.setattr(page, "_figures", lambda *_: {})

    def server(**plan) -> Server:
        hospitals = {n: Hospital(sites[n], Mmds(), tmp_path / n) for n in ("liver", "spleen")}
        return Server(tmp_path / "server", hospitals, FullModelShareableGenerator(), **{**PLAN, **plan})

    return server


def test_the_global_model_has_the_plans_classes_and_is_scored_for_them(make, home):  # noqa: F811
    server = make(classes=["liver", "spleen"])
    server.run()
    model = load_model(server.app / GLOBAL_MODEL)[0]
    assert universal_classes(model) == ("liver", "spleen")
    scores = json.loads((server.app / "report.json").read_text(encoding="utf-8"))["sites"]
    assert {site: set(of) for site, of in scores.items()} == {"liver": {"liver"}, "spleen": {"spleen"}}
    assert not home.exists()  # no store, and no site keeps a model beyond the job


def test_an_update_with_a_bad_tensor_is_left_out(make):
    server = make(classes=["liver", "spleen"], num_rounds=1)
    spoil = content(lambda d: d.data["head.2.weight"].fill(np.nan))
    server.link.hospitals["spleen"] = Changed(server.link.hospitals["spleen"], spoil, "train")
    server.run(min_clients=1, evaluate=False)
    failures = [line for line in server.progress() if line["event"] == "failure"]
    assert [line["site"] for line in failures] == ["spleen"]
    assert "head.2.weight" in failures[0]["reason"]
