"""Methods in their limits, bit for bit, over two rounds of a federation of two sites."""

import numpy as np
import pytest

from federation import federate, tiny_plan
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.server.fed_optimizer import ServerSGD

PLAIN_SGD = ServerSGD(lr=1.0, final_lr=1.0, momentum=0.0)


def run(tiny_sites, folder, method, optimizer=None):
    return federate(tiny_sites, tiny_plan(preset="tiny_supervised"), method, folder, optimizer)


def same(a: list[dict], b: list[dict]) -> list[bool]:
    """Whether the global models are equal bit for bit, round by round."""
    assert len(a) == len(b) == 2
    return [list(x) == list(y) and all(np.array_equal(x[n], y[n]) for n in x) for x, y in zip(a, b, strict=True)]


@pytest.fixture
def fedavg(tiny, tiny_sites, tmp_path):
    """Global weights after each round of plain FedAvg."""
    return run(tiny_sites, tmp_path / "fedavg", FedAvg())


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        pytest.param(FedAvg(), None, id="FedAvg again"),
        pytest.param(ConDistFL(weight_start=0.0, weight_end=0.0), None, id="ConDistFL with weights 0"),
        pytest.param(FedAvg(), PLAIN_SGD, id="FedOpt with lr 1 and momentum 0"),
        pytest.param(ConDistFL(weight_start=0, weight_end=0), PLAIN_SGD, id="both"),
    ],
)
def test_the_limit_is_fedavg(fedavg, tiny_sites, tmp_path, method, optimizer):
    assert same(run(tiny_sites, tmp_path / "limit", method, optimizer), fedavg) == [True, True]


@pytest.mark.parametrize(
    ("method", "optimizer", "expected"),
    [
        pytest.param(ConDistFL(weight_start=1.0, weight_end=1.0), None, [False, False], id="distillation"),
        pytest.param(ConDistFL(weight_start=0.0, weight_end=1.0), None, [True, False], id="ramp from 0"),
        pytest.param(FedAvg(), ServerSGD(lr=1.0, final_lr=1.0, momentum=0.6), [True, False], id="momentum"),
        pytest.param(FedAvg(), ServerSGD(lr=0.5, final_lr=0.5, momentum=0.0), [False, False], id="half steps"),
    ],
)
def test_away_from_the_limit_it_is_not(fedavg, tiny_sites, tmp_path, method, optimizer, expected):
    assert same(run(tiny_sites, tmp_path / "other", method, optimizer), fedavg) == expected


def test_another_seed_gives_another_federation(fedavg, tiny_sites, tmp_path):
    other = federate(tiny_sites, tiny_plan(preset="tiny_supervised", seed=4), FedAvg(), tmp_path / "seed")
    assert same(other, fedavg) == [False, False]


def test_what_the_sites_do_depends_on_their_data(fedavg, tiny_sites, tmp_path):
    alone = federate({"liver": tiny_sites["liver"]}, tiny_plan(preset="tiny_supervised"), FedAvg(), tmp_path / "alone")
    assert same(alone, fedavg) == [False, False]
