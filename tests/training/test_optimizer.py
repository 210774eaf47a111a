"""Our SGD is torch.optim.SGD, bit for bit, also from a saved state; and it does not import the compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from fedpartial.presets import PHANTOM, OptimizerConfig
from fedpartial.training.optimizer import NesterovSGD

CONFIGS = (PHANTOM.optimizer, OptimizerConfig(lr=0.1, momentum=0.0, weight_decay=0.01, min_lr=0.0, clip_norm=1.0))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def backward(network: nn.Module, step: int) -> None:
    data = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    network(data).square().sum().backward()


@pytest.mark.parametrize("config", CONFIGS, ids=["nesterov", "plain"])
def test_equals_torch_bit_for_bit_also_from_a_saved_state(config):
    ours, theirs = make_network(), make_network()
    reference = torch.optim.SGD(
        theirs.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )
    optimizer = NesterovSGD(dict(ours.named_parameters()), config)
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            assert set(saved) == (set(dict(ours.named_parameters())) if config.momentum else set())
            optimizer = NesterovSGD(dict(ours.named_parameters()), config)
            optimizer.load(saved)
        optimizer.lr = reference.param_groups[0]["lr"] = config.lr / (1 + step)
        for network, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            backward(network, step)
            stepper.step()
    moved = [not torch.equal(a, b) for a, b in zip(ours.parameters(), make_network().parameters(), strict=True)]
    assert all(moved)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_parameter_without_gradient_stays():
    network = make_network()
    network[0].weight.requires_grad_(False)
    before = network[0].weight.clone()
    optimizer = NesterovSGD(dict(network.named_parameters()), PHANTOM.optimizer)
    backward(network, 0)
    optimizer.step()
    assert torch.equal(network[0].weight, before)
    assert "0.weight" not in optimizer.state()


def test_a_loss_scaler_can_use_it():
    network = make_network()
    optimizer = NesterovSGD(dict(network.named_parameters()), PHANTOM.optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0)
    before = network[2].weight.clone()
    scaler.scale(network(torch.ones(1, 5)).square().sum()).backward()
    scaled = network[2].weight.grad.clone()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(network[2].weight.grad, scaled / 8)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(network[2].weight, before)


def test_a_step_does_not_import_the_compiler():
    code = """
import sys, torch
from fedpartial.presets import PHANTOM
from fedpartial.training.optimizer import NesterovSGD
p = torch.nn.Parameter(torch.ones(2))
o = NesterovSGD({"p": p}, PHANTOM.optimizer)
p.sum().backward()
torch.nn.utils.clip_grad_norm_([p], 1.0)
o.step()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
