"""FedProx: the pull back to the global model, on every parameter and on nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from federation import TINY_SUPERVISED
from fedpartial.methods.base import RoundContext
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedprox import FedProx
from fedpartial.networks.build import build_network
from fedpartial.presets import ABDOMEN

GROUPS = torch.from_numpy(ABDOMEN.group_matrix())
NOTHING = FedAvg(dice_weight=0.0, ce_weight=0.0)
"""A supervised part without value and gradient, so that the proximal part stands alone."""


def context(network: nn.Module, reference: nn.Module | None) -> RoundContext:
    fixed = () if reference is None else tuple(p.detach().clone() for p in reference.parameters())
    return RoundContext(
        round_number=0, num_rounds=1, groups=GROUPS, parameters=tuple(network.parameters()), reference=fixed
    )


def batch() -> tuple:
    logits = torch.randn(1, 8, 2, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labelled = torch.from_numpy(ABDOMEN.labelled_mask(["liver"]))[None]
    return [logits], None, torch.ones(1, 2, 2, 1, dtype=torch.long), labelled


@pytest.fixture(scope="module")
def networks():
    """A DynUNet and another one of the same shape, in float64."""
    return tuple(build_network(TINY_SUPERVISED, seed=seed).double() for seed in (0, 1))


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_the_gradient_is_mu_times_the_distance_on_every_tensor(networks, mu):
    local, fixed = networks
    local.zero_grad()
    FedProx(mu=mu, supervised=NOTHING).loss(*batch(), context(local, fixed)).total.backward()
    theirs = dict(fixed.named_parameters())
    names = [name for name, _ in local.named_parameters()]
    assert len(names) > 10
    for name, parameter in local.named_parameters():
        expected = mu * (parameter - theirs[name]).detach()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-15, msg=name)


def test_it_is_half_the_squared_distance_of_all_parameters_each_once(networks):
    local, fixed = networks
    found = FedProx().loss(*batch(), context(local, fixed)).parts["proximal"]
    flat = [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]
    assert found.item() == pytest.approx(0.5 * (flat[0] - flat[1]).square().sum().item(), rel=1e-12)


def test_the_loss_is_the_supervised_one_plus_mu_times_the_distance(networks):
    terms = FedProx(mu=0.25).loss(*batch(), context(*networks))
    alone = FedAvg().loss(*batch(), context(*networks))
    assert terms.total.item() == pytest.approx(alone.total.item() + 0.25 * terms.parts["proximal"].item(), rel=1e-12)
    assert torch.equal(terms.parts["dice"], alone.parts["dice"])


def test_statistics_of_normalisation_are_not_pulled():
    """They are buffers: the local trainer hands over the parameters only."""
    local, fixed = (nn.BatchNorm1d(3).double() for _ in range(2))
    local.running_mean.fill_(7.0)
    assert FedProx().loss(*batch(), context(local, fixed)).parts["proximal"] == 0


def test_with_mu_zero_the_reference_is_not_asked_for():
    assert FedProx(mu=0.01).needs_reference()
    assert not FedProx(mu=0.0).needs_reference()
    assert "proximal" not in FedProx(mu=0.0).loss(*batch(), context(nn.Linear(1, 1), None)).parts
