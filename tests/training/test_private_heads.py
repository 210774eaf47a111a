"""What travels and what stays with private heads, round by round (SegViz, METHODS 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from federation import federate
from fedpartial.errors import ConfigError
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.segviz import SegViz
from fedpartial.networks.assembled import build_assembled
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import StateMismatch, load_canonical
from fedpartial.networks.split import is_head, is_norm, is_shared
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession
from private_heads import Federated, federate_heads, heads_plan, tensors

EXCHANGES = ("trunk", "trunk_without_statistics", "trunk_without_norms")
CLASSES = {"liver": ("liver",), "spleen": ("spleen",)}


@pytest.fixture(scope="module")
def runs(tiny, tiny_sites, tmp_path_factory) -> dict[str, Federated]:
    folder = tmp_path_factory.mktemp("rounds")
    return {name: federate_heads(tiny_sites, heads_plan(exchange=name), folder / name) for name in EXCHANGES}


def whole_state(session: SiteSession, weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What a site would start one more round from."""
    return dict(session.starting_weights(tensors(weights), session.plan.num_rounds))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_message_holds_exactly_the_shared_tensors(runs, exchange):
    run = runs[exchange]
    for site, session in run.sessions.items():
        names = session.trainer.local_weights().keys()
        expected = {name for name in names if is_shared(name, exchange)}
        assert any(map(is_head, names))
        assert not any(map(is_head, expected))
        assert exchange != "trunk_without_norms" or not any(map(is_norm, expected))
        for updates, shared in zip(run.updates, run.shared, strict=True):
            assert updates[site].keys() == shared.keys() == expected


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_after_a_round_all_sites_start_from_one_trunk_and_their_own_heads(runs, exchange):
    liver, spleen = (runs[exchange].started[1][site] for site in CLASSES)
    shared = [name for name in liver if is_shared(name, exchange)]
    assert shared
    assert all(torch.equal(liver[name], spleen[name]) for name in shared)
    assert {name.split(".")[1] for name in liver if is_head(name)} == {"liver"}
    assert {name.split(".")[1] for name in spleen if is_head(name)} == {"spleen"}
    heads = [name for name in liver if is_head(name)]
    moved = [n for n in heads if not torch.equal(liver[n], runs[exchange].started[0]["liver"][n])]
    assert moved == heads
    assert not any(torch.equal(liver[n], spleen[n.replace("liver", "spleen")]) for n in heads if liver[n].numel() > 2)


def test_the_trunk_moves_in_every_round(runs):
    for exchange, run in runs.items():
        first = run.started[0]["liver"]
        assert all(not np.array_equal(run.shared[0][n], first[n].numpy()) for n in run.shared[0]), exchange


def test_fedbn_keeps_the_norms_of_the_sites_apart(runs):
    liver, spleen = (runs["trunk_without_norms"].started[1][site] for site in CLASSES)
    norms = [name for name in liver if is_norm(name) and not is_head(name)]
    assert norms
    assert not any(torch.equal(liver[name], spleen[name]) for name in norms)


def test_statistics_can_stay_while_scales_are_averaged(runs):
    liver, spleen = (runs["trunk_without_statistics"].started[1][site] for site in CLASSES)
    norms = [name for name in liver if is_norm(name) and not is_head(name)]
    apart = {name.rpartition(".")[2] for name in norms if not torch.equal(liver[name], spleen[name])}
    assert apart == {"running_mean", "running_var"}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_assembled_model_gives_each_sites_own_prediction_bit_for_bit(runs, exchange):
    run = runs[exchange]
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    session = run.sessions["liver"]
    with torch.no_grad():
        together = build_assembled(session.preset, run.assembled())(image)
        for site, (name,) in CLASSES.items():
            alone = build_network(session.preset, seed=0, head_classes=(name,)).eval()
            load_canonical(alone, whole_state(run.sessions[site], run.shared[-1]))
            channel = session.preset.label_space.index(name)
            assert torch.equal(together[:, channel], alone(image)[:, channel])
    assert len(together.unique()) > 100


def test_standalone_sites_give_their_whole_networks(tiny, tiny_sites, tmp_path):
    plan = heads_plan()
    run = federate_heads(tiny_sites, plan, tmp_path / "both", start_from="local")
    alone = federate_heads({"liver": tiny_sites["liver"]}, plan, tmp_path / "one", start_from="local")
    assert run.private()["liver"].keys() == run.sessions["liver"].trainer.local_weights().keys()
    for name, value in alone.private()["liver"].items():
        np.testing.assert_array_equal(value, run.private()["liver"][name])
    state = run.assembled(whole=True)
    assert all("/" in name for name in state)
    build_assembled(run.sessions["liver"].preset, state)


def test_a_round_is_a_function_of_weights_round_and_files(tiny, tiny_sites, tmp_path):
    """A new process for every task, as in the simulator with one thread."""
    plan, site = heads_plan(exchange="trunk_without_norms"), {"liver": tiny_sites["liver"]}
    kept = federate_heads(site, plan, tmp_path / "kept")
    weights = {n: v - kept.updates[0]["liver"][n] for n, v in kept.shared[0].items()}
    for number in range(2):
        given = {"site": site["liver"], "plan": plan, "method": SegViz(), "state_dir": tmp_path / "new"}
        session = SiteSession(**given)
        start = kept.started[0]["liver"] if number == 0 else tensors(kept.shared[0])
        start = {name: start[name] for name in weights}
        update = session.train(start, number, lambda: False).update
        assert all(np.array_equal(update[n].numpy(), kept.updates[number]["liver"][n]) for n in update)
    assert all(np.array_equal(v, kept.private()["liver"][n]) for n, v in session.trainer.stored_private_part().items())


def test_without_a_private_part_this_is_fedavg_bit_for_bit(tiny, tiny_sites, tmp_path, monkeypatch):
    """The limit of exchanging the trunk: a network with a joint head of which every tensor counts as trunk."""
    method = FedAvg(unlabelled="background")
    usual = federate(tiny_sites, heads_plan(exchange="all"), method, tmp_path / "usual")
    for module in ("training.local_trainer", "server.heads"):
        monkeypatch.setattr(f"fedpartial.{module}.is_shared", lambda name, exchange: True)
    monkeypatch.setattr(Plan, "private_heads", False)
    split = federate_heads(tiny_sites, heads_plan(exchange="trunk"), tmp_path / "split", method=method)
    assert all(session.trainer.exchange == "trunk" for session in split.sessions.values())
    for ours, theirs in zip(split.shared, usual, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_private_tensor_from_the_server_is_refused(runs):
    session = runs["trunk"].sessions["liver"]
    sent = session.trainer.local_weights()
    with pytest.raises(StateMismatch, match=r"the server sends 'heads\.liver\..*private"):
        session.train(sent, 1, lambda: False)
    with pytest.raises(StateMismatch, match="missing"):
        session.train({n: t for n, t in list(sent.items())[:3]}, 1, lambda: False)


@pytest.mark.parametrize(("method", "exchange"), [(FedAvg(), "trunk"), (SegViz(), "all")])
def test_a_method_of_other_heads_is_refused_before_training(tiny, tiny_sites, tmp_path, method, exchange):
    plan = heads_plan(exchange=exchange)
    session = SiteSession(site=tiny_sites["liver"], plan=plan, method=method, state_dir=tmp_path)
    with pytest.raises(ConfigError, match="SegViz where the trunk is exchanged"):
        _ = session.trainer
