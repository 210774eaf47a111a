"""FedOpt against its closed form, on every tensor of a network (upstream bug U4)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from federation import TINY_SUPERVISED
from fedpartial.errors import ConfigError
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.server.fed_optimizer import ServerSGD

EXPECTED = json.loads((Path(__file__).parents[1] / "vectors.json").read_text(encoding="utf-8"))
POSITIONS = EXPECTED["fedopt_constant_update_0.1"]
ROUNDS = 120


@pytest.fixture(scope="module")
def start():
    return {n: t.numpy() for n, t in canonical_state(build_network(TINY_SUPERVISED, seed=0)).items()}


def walk(optimizer: ServerSGD, update: dict, steps: int, num_rounds: int = ROUNDS) -> list[dict[str, np.ndarray]]:
    """Sums of the changes after each round, for the same update in every round."""
    velocity, position, positions = {}, {n: np.zeros_like(v) for n, v in update.items()}, []
    for number in range(steps):
        velocity, change = optimizer.step(velocity, update, round_number=number, num_rounds=num_rounds)
        position = {n: position[n] + change[n] for n in position}
        positions.append(position)
    return positions


def test_a_constant_update_follows_the_closed_form_on_every_tensor(start):
    update = {name: np.full_like(value, 0.1) for name, value in start.items()}
    found = walk(ServerSGD(), update, len(POSITIONS))
    assert len(POSITIONS) == 4
    assert len(start) > 10
    for position, expected in zip(found, POSITIONS, strict=True):
        for name, value in position.items():
            np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
            assert value.dtype == np.float32
            assert value.shape == start[name].shape


def test_a_changing_update_follows_the_recursion():
    """v <- 0.6 v + delta; w <- w + eta v, by hand in float64."""
    optimizer = ServerSGD()
    deltas, v, velocity = [0.5, -0.25, 1.0, 0.0], 0.0, {}
    for number, delta in enumerate(deltas):
        velocity, change = optimizer.step(
            velocity, {"w": np.float32([delta])}, round_number=number, num_rounds=len(deltas)
        )
        v = 0.6 * v + delta
        rate = 0.9 + 0.05 * (1 + np.cos(np.pi * number / len(deltas)))
        assert change["w"] == pytest.approx(rate * v, rel=1e-6)
        assert velocity["w"] == pytest.approx(v, rel=1e-6)


def test_lr_one_and_momentum_zero_is_the_update_itself(start):
    rng = np.random.default_rng(0)
    update = {n: rng.normal(size=v.shape).astype(np.float32) for n, v in start.items()}
    velocity = {}
    for number in range(3):
        velocity, change = ServerSGD(lr=1.0, final_lr=1.0, momentum=0.0).step(
            velocity, update, round_number=number, num_rounds=3
        )
        assert all(change[n].tobytes() == update[n].tobytes() for n in update)


def test_the_update_is_left_alone():
    update = {"w": np.float32([1.0])}
    velocity, change = ServerSGD().step({}, update, round_number=0, num_rounds=2)
    velocity, change = ServerSGD().step(velocity, update, round_number=1, num_rounds=2)
    change["w"] += 1
    assert update["w"].tolist() == [1.0]


# --- running statistics of BatchNorm ------------------------------------------------------------------


@pytest.fixture(scope="module")
def normalised():
    """The canonical state of a convolution with a BatchNorm, as arrays."""
    network = torch.nn.Sequential(torch.nn.Conv1d(1, 3, 1), torch.nn.BatchNorm1d(3))
    return {name: tensor.numpy() for name, tensor in canonical_state(network).items()}


def test_statistics_take_the_plain_mean_and_parameters_the_optimiser(normalised):
    update = {name: np.full_like(value, 0.1) for name, value in normalised.items()}
    found = walk(ServerSGD(), update, len(POSITIONS))
    statistics = {"1.running_mean", "1.running_var"}
    assert statistics < set(update)
    for number, (position, expected) in enumerate(zip(found, POSITIONS, strict=True), start=1):
        for name, value in position.items():
            plain = 0.1 * number
            np.testing.assert_allclose(value, plain if name in statistics else expected, rtol=1e-6, err_msg=name)


def test_statistics_are_never_in_the_velocity(normalised):
    velocity = {}
    for number in range(3):
        velocity, change = ServerSGD().step(velocity, normalised, round_number=number, num_rounds=3)
        assert set(velocity) == {"0.weight", "0.bias", "1.weight", "1.bias"}
        assert set(change) == set(normalised)


def test_a_variance_that_falls_stays_positive_under_momentum():
    """The sites halve it in every round. As a parameter it would overshoot: 4, 2, -0.8."""
    optimizer, ends = ServerSGD(momentum=0.9), {}
    for name in ("1.running_var", "1.weight"):
        value, velocity, lowest = np.float32([4.0, 1.0, 0.5]), {}, np.inf
        for number in range(10):
            velocity, change = optimizer.step(velocity, {name: -value / 2}, round_number=number, num_rounds=10)
            value = value + change[name]
            lowest = min(lowest, value.min())
        ends[name] = lowest
    assert ends["1.running_var"] > 0 > ends["1.weight"]


@pytest.mark.parametrize(
    "values",
    [{"lr": 0.0}, {"lr": -1.0}, {"final_lr": 0.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"lr": float("nan")}],
)
def test_impossible_values_are_refused(values):
    with pytest.raises(ConfigError, match="server optimiser"):
        ServerSGD(**values)
