"""Our SGD, Adam and AdamW are torch.optim's, bit for bit, also from a state; and they do not import the compiler."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedpartial.presets import PHANTOM, OptimizerConfig
from fedpartial.training.checkpoint import SiteState, load_state_before, save_state
from fedpartial.training.local_trainer import WEIGHTS
from fedpartial.training.optimizer import Adam, NesterovSGD, build_optimizer

PLAIN = OptimizerConfig(lr=0.1, momentum=0.0, weight_decay=0.01, min_lr=0.0, clip_norm=1.0)
ADAM = OptimizerConfig(kind="adam", lr=0.01, weight_decay=0.0, min_lr=0.0, clip_norm=None)
ADAM_OTHERWISE = replace(ADAM, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1)
ADAMW = replace(ADAM_OTHERWISE, kind="adamw")
CONFIGS = {
    "nesterov": PHANTOM.optimizer,
    "plain": PLAIN,
    "adam": ADAM,
    "adam otherwise": ADAM_OTHERWISE,
    "adamw": ADAMW,
}
CLASSES = {"sgd": NesterovSGD, "adam": Adam, "adamw": Adam}


def torch_optimizer(parameters, config: OptimizerConfig) -> torch.optim.Optimizer:
    if config.kind != "sgd":
        cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind]
        return cls(parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def every_config(function):
    return pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))(function)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def backward(network: nn.Module, step: int) -> None:
    data = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    network(data).square().sum().backward()


@every_config
def test_equals_torch_bit_for_bit_also_from_a_saved_state(config, tmp_path):
    ours, theirs = make_network(), make_network()
    reference = torch_optimizer(theirs.parameters(), config)
    optimizer = build_optimizer(dict(ours.named_parameters()), config)
    assert type(optimizer) is CLASSES[config.kind]
    for step in range(6):
        if step == 3:
            save_state(tmp_path, 0, SiteState(tensors=optimizer.state(), values={}))
            optimizer = build_optimizer(dict(ours.named_parameters()), config)
            optimizer.load(load_state_before(tmp_path, 1).tensors)
        optimizer.lr = reference.param_groups[0]["lr"] = config.lr / (1 + step)
        for network, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            backward(network, step)
            stepper.step()
    moved = [not torch.equal(a, b) for a, b in zip(ours.parameters(), make_network().parameters(), strict=True)]
    assert all(moved)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_adamw_shrinks_weights_apart_from_the_gradient():
    """Else its decay would be Adam's, and the comparison with torch's class would show nothing."""
    found = []
    for config in (ADAM_OTHERWISE, ADAMW):
        network = make_network()
        optimizer = build_optimizer(dict(network.named_parameters()), config)
        for step in range(2):
            optimizer.zero_grad()
            backward(network, step)
            optimizer.step()
        found.append(network[0].weight.detach())
    assert not torch.equal(*found)


def test_the_state_names_its_parameters_and_never_looks_like_weights():
    network = make_network()
    names = list(dict(network.named_parameters()))
    expected = {
        "nesterov": set(names),
        "plain": set(),
        "adam": {f"{part}/{name}" for name in names for part in ("exp_avg", "exp_avg_sq", "step")},
    }
    for key, wanted in expected.items():
        optimizer = build_optimizer(dict(network.named_parameters()), CONFIGS[key])
        assert optimizer.state() == {}
        backward(network, 0)
        optimizer.step()
        assert set(optimizer.state()) == wanted
        assert not any(name.startswith(WEIGHTS) for name in optimizer.state())


def test_adam_forgets_its_own_state_for_one_that_lacks_it():
    network = make_network()
    optimizer = Adam(dict(network.named_parameters()), ADAM)
    backward(network, 0)
    optimizer.step()
    kept = {name: tensor.clone() for name, tensor in optimizer.state().items() if name.endswith("/0.weight")}
    optimizer.load(kept)
    assert set(optimizer.state()) == set(kept)
    assert len(kept) == 3
    optimizer.step()
    assert {name: float(t) for name, t in optimizer.state().items() if name.startswith("step/")} == {
        "step/0.weight": 2.0,
        "step/0.bias": 1.0,
        "step/2.weight": 1.0,
        "step/2.bias": 1.0,
    }
    assert float(kept["step/0.weight"]) == 1.0, "a loaded state is copied"


@every_config
def test_a_parameter_without_gradient_stays(config):
    network = make_network()
    network[0].weight.requires_grad_(False)
    before = network[0].weight.clone()
    optimizer = build_optimizer(dict(network.named_parameters()), config)
    optimizer.step()
    assert optimizer.state() == {}, "nothing has a gradient yet"
    backward(network, 0)
    optimizer.step()
    assert torch.equal(network[0].weight, before)
    assert not any("0.weight" in name for name in optimizer.state())


@every_config
def test_a_loss_scaler_can_use_it(config):
    network = make_network()
    optimizer = build_optimizer(dict(network.named_parameters()), config)
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
from dataclasses import replace
from fedpartial.presets import PHANTOM
from fedpartial.training.optimizer import build_optimizer
p = torch.nn.Parameter(torch.ones(2))
p.sum().backward()
torch.nn.utils.clip_grad_norm_([p], 1.0)
for kind in ("sgd", "adam", "adamw"):
    build_optimizer({"p": p}, replace(PHANTOM.optimizer, kind=kind)).step()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
