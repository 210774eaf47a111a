"""A site sends what must not touch the global model: NaN, a wrong shape, a missing and an extra tensor."""

from __future__ import annotations

import shutil
from pathlib import Path

import faulty_site
import numpy as np
import pytest
from fault_work import assert_same_bits, events, federation, results, updates, weights
from real_federation import SERVER
from tiny_work import SITES, bundle, edit

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
REASONS = (
    f"update from liver refused: tensor '{faulty_site.TENSOR}': 1 value(s) are NaN or infinite",
    f"update from liver refused: tensor '{faulty_site.TENSOR}': got shape ",
    f"update from liver refused: 1 tensor(s) missing, first '{faulty_site.TENSOR}'",
    f"update from liver refused: 1 unknown tensor(s), first '{faulty_site.EXTRA}'",
)
HONEST = {(number, "spleen") for number in range(1, len(REASONS) + 1)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    """Server and sites let a job bring code."""
    policy = dict.fromkeys((SERVER, *SITES), "byoc")
    with federation(tmp_path_factory.mktemp("updates"), policy=policy) as given:
        yield given


def test_each_is_refused_by_name_and_the_model_is_the_one_without_that_site(running, tmp_path):
    faulty = running.submit(_faulty(tmp_path / "faulty"))
    alone = running.submit(bundle(tmp_path / "alone", sites=["spleen"], rounds=len(REASONS)))
    assert running.wait(faulty) == running.wait(alone) == "FINISHED:COMPLETED"
    done, expected = results(running, faulty), results(running, alone)
    said = [event["reason"] for event in events(done, "failure") if event["site"] == "liver"]
    assert len(said) == len(REASONS)
    assert all(found.startswith(reason) for found, reason in zip(said, REASONS, strict=True)), said
    assert all(f"site liver failed: {reason}" in running.server_log() for reason in said)
    assert updates(done) == updates(expected) == HONEST
    assert all(np.isfinite(value).all() for value in weights(done).values())
    assert_same_bits(weights(done), weights(expected))


def _faulty(out: Path) -> Path:
    """A job that brings the package and the faulty learner."""
    bundle(out, "shipped", rounds=len(REASONS), min_sites=1)
    shutil.copy(faulty_site.__file__, out / "app" / "custom")
    edit(out / "app" / "config" / "config_fed_client.json", _use_faulty_learner)
    return out


def _use_faulty_learner(config: dict) -> None:
    (learner,) = config["components"]
    learner["path"] = f"{faulty_site.__name__}.{faulty_site.FaultySite.__name__}"
