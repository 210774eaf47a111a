"""A federation of whole sites in which nothing is exchanged, as in the published SegViz notebooks, ends by itself."""

from __future__ import annotations

import json

import pytest
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

from fedpartial.flare.exchange_watch import EXCHANGE_FILE
from fedpartial.methods.fedavg import FedAvg
from fedpartial.server.run_state import RUN_STATE

pytestmark = pytest.mark.usefixtures("without_figures")


class AssignsNothing(FullModelShareableGenerator):
    """METHODS 2.2, S1: the averages are computed and dropped."""

    def shareable_to_learnable(self, shareable, fl_ctx):
        return fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)


def panics(server) -> list[str]:
    return [line["reason"] for line in server.progress() if line["event"] == "panic"]


def exchanged(server) -> dict:
    return json.loads((server.app / EXCHANGE_FILE).read_text(encoding="utf-8"))


def test_a_server_that_drops_the_averages_ends_the_run(make_server):
    server = make_server(AssignsNothing(), FedAvg())
    server.run()
    (reason,) = panics(server)
    assert "round 1: the global model did not change" in reason
    assert not (server.app / RUN_STATE).exists()
    assert not (server.app / "report.json").exists()
    moved = exchanged(server)["rounds"][0]["sites"]
    assert all(site["tensors_not_zero"] for site in moved.values()), "the sites have trained"


def test_sites_that_do_not_load_what_was_sent_end_the_run(make_server, monkeypatch):
    """METHODS 2.2, S1 and S2 seen from a site: it trains on from its own weights."""
    monkeypatch.setattr("fedpartial.training.local_trainer.load_canonical", lambda network, weights: None)
    server = make_server(None, FedAvg(), num_rounds=3)
    server.run()
    assert "did not take over what was sent" in panics(server)[0]
    assert [r["round"] for r in exchanged(server)["rounds"]] == [1, 2], "both start from the same seed"


def test_a_run_that_exchanges_everything_says_so(make_server):
    server = make_server(None, FedAvg())
    server.run(evaluate=False)
    assert not panics(server)
    found = exchanged(server)
    everything = len(found["shared"])
    assert everything > 20
    for noted in found["rounds"]:
        sites = noted["sites"].values()
        assert noted["tensors_down"] == everything
        assert {(s["tensors_up"], s["tensors_taken"], s["bytes_received"]) for s in sites} == {
            (everything, everything, noted["bytes_down"])
        }
        assert noted["tensors_changed"] + len(noted["unchanged"]) == everything
