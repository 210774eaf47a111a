"""Runs with private heads that are continued, and two hospitals with a head for the same class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_private_heads_start import (
    HeadServer,
    assembled_model,
    assert_equal,
    every_tuning_helps,  # noqa: F401
    make_job,
    told,
)
from test_resume import FIRST_JOB, continue_from, interrupt
from tiny_hospital import write_case, write_site

from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL, TRUNK_MODEL
from fedpartial.networks.assembled import build_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import load_canonical
from fedpartial.sites import SiteConfig
from fedpartial.training.model_file import load_model
from private_heads import heads_plan

pytestmark = pytest.mark.usefixtures("every_tuning_helps")
TUNED = "fedbn, tuned"
CONTINUED = {
    "trunk": {"exchange": "trunk"},
    TUNED: {"exchange": "trunk_without_norms", "finetune_steps": 2},
    "standalone": {"exchange": "trunk", "alone": True},
}


@pytest.fixture(scope="module")
def whole(tiny, tiny_sites, tmp_path_factory) -> dict[str, HeadServer]:
    """The runs that nobody interrupts."""
    servers = {}
    for name, plan in CONTINUED.items():
        servers[name] = make_job(tiny_sites, tmp_path_factory.mktemp("whole"), **plan)
        servers[name].run(evaluate=False)
    return servers


@pytest.mark.parametrize("rounds", [1, 2], ids=["after round 1", "after the last round"])
@pytest.mark.parametrize("name", CONTINUED)
def test_a_continued_run_gives_the_same_assembled_model(whole, tiny_sites, tmp_path, name, rounds):
    plan, expected = CONTINUED[name], whole[name]
    first = make_job(tiny_sites, tmp_path / "first", **plan)
    interrupt(first, rounds)
    assert not (first.app / GLOBAL_MODEL).exists()
    second = make_job(tiny_sites, tmp_path / "second", resumed_jobs=[FIRST_JOB], **plan)
    continue_from(first, second)
    second.run(evaluate=False)
    assert_equal(assembled_model(second), assembled_model(expected))
    assert [line["round"] for line in told(second, "round")] == [2][: 2 - rounds]
    if "alone" not in plan:
        assert_equal(load_model(second.app / TRUNK_MODEL)[0], load_model(expected.app / TRUNK_MODEL)[0])
    assert not told(second, "failure") + told(second, "panic") + told(second, "optimizer")


def test_a_run_that_lacks_its_report_tunes_its_heads_again_with_the_same_result(whole, tiny_sites, tmp_path):
    """The sites' latest state is that of the finished tuning, which may not be the start of the next."""
    plan, finished = CONTINUED[TUNED], whole[TUNED]
    second = make_job(tiny_sites, tmp_path, resumed_jobs=[FIRST_JOB], **plan)
    continue_from(finished, second)
    second.run(evaluate=False)
    assert {line["site"] for line in told(second, "tuned")} == {"liver", "spleen"}
    assert_equal(assembled_model(second), assembled_model(finished))


def test_without_the_state_of_the_sites_there_is_no_head_to_collect(tiny, tiny_sites, tmp_path):
    """The check above would see a forgotten state."""
    first = make_job(tiny_sites, tmp_path / "first", num_rounds=1)
    interrupt(first, 1)
    second = make_job(tiny_sites, tmp_path / "second", num_rounds=1)
    continue_from(first, second)
    second.run()
    assert {line["site"] for line in told(second, "failure")} == {"liver", "spleen"}
    assert all("has not finished a round" in line["reason"] for line in told(second, "failure"))
    assert not (second.app / BEST_MODEL).exists()


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> SiteConfig:
    """A second hospital that annotates the liver, with one training case."""
    root = tmp_path_factory.mktemp("clinic")
    splits = ("training", "validation", "testing")
    cases = {split: [write_case(root, split, seed=number)] for number, split in enumerate(splits, start=500)}
    return replace(write_site(root, cases, {1: "liver", 2: "background"}), name="clinic", device="cpu")


def test_two_heads_of_one_class_are_weighed_by_their_training_cases(tiny, tiny_sites, clinic, tmp_path):
    server = make_job({"liver": tiny_sites["liver"], "clinic": clinic}, tmp_path, num_rounds=1)
    server.run(evaluate=False)
    state, preset = assembled_model(server), heads_plan().config
    assert {site: state[f"{site}/num_training"].item() for site in ("liver", "clinic")} == {"liver": 2, "clinic": 1}
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    channel = preset.label_space.index("liver")
    odds = {}
    for site in ("liver", "clinic"):
        network = build_network(preset, seed=0, head_classes=["liver"]).eval()
        own = {n.removeprefix(f"{site}/"): v for n, v in state.items() if n.startswith(f"{site}/heads.")}
        load_canonical(network, {**{n: v for n, v in state.items() if "/" not in n}, **own})
        with torch.no_grad():
            odds[site] = network(image)[0, channel].double().numpy()
    foreground = {site: 1 / (1 + np.exp(-values)) for site, values in odds.items()}
    mean = (2 * foreground["liver"] + foreground["clinic"]) / 3
    with torch.no_grad():
        found = build_assembled(preset, state)(image)[0, channel].numpy()
    np.testing.assert_allclose(found, np.log(mean / (1 - mean)), rtol=0, atol=1e-5)
    assert np.abs(odds["liver"] - odds["clinic"]).max() > 0.05, "the weights matter"
