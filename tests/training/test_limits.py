"""Methods in their limits, bit for bit, over two rounds of a federation of two sites, and away from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from federation import complete_labels, federate, tiny_plan
from fedpartial.methods.base import Method
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedprox import FedProx
from fedpartial.server.fed_optimizer import ServerSGD
from fedpartial.training.local_trainer import StartFrom

PLAIN_SGD = ServerSGD(lr=1.0, final_lr=1.0, momentum=0.0)
NAIVE = FedAvg(unlabelled="background")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation: a method, what the server does, where the sites start, and which sites there are."""

    method: Method = field(default_factory=FedAvg)
    optimizer: ServerSGD | None = None
    start_from: StartFrom = "global"
    sites: str = "partial"


LIMITS = {
    "FedAvg again": Case(),
    "FedProx with mu 0": Case(method=FedProx(mu=0.0)),
    "ConDistFL with weights 0": Case(method=ConDistFL(weight_start=0.0, weight_end=0.0)),
    "FedOpt with lr 1 and momentum 0": Case(optimizer=PLAIN_SGD),
    "FedProx and FedOpt": Case(method=FedProx(mu=0), optimizer=PLAIN_SGD),
    "ConDistFL and FedOpt": Case(method=ConDistFL(weight_start=0, weight_end=0), optimizer=PLAIN_SGD),
    "unlabelled as background where all is labelled": Case(method=NAIVE, sites="complete"),
}
AWAY = {
    "proximal": (Case(method=FedProx(mu=1.0)), [False, False]),
    "distillation": (Case(method=ConDistFL(weight_start=1.0, weight_end=1.0)), [False, False]),
    "distillation from the second round": (Case(method=ConDistFL(weight_start=0.0, weight_end=1.0)), [True, False]),
    "momentum": (Case(optimizer=ServerSGD(lr=1.0, final_lr=1.0, momentum=0.6)), [True, False]),
    "half steps": (Case(optimizer=ServerSGD(lr=0.5, final_lr=0.5, momentum=0.0)), [False, False]),
    "unlabelled as background": (Case(method=NAIVE), [False, False]),
}
"""Name -> federation, and whether its models after the two rounds are those of FedAvg."""


@pytest.fixture(scope="module")
def sites(tiny_sites) -> dict[str, dict]:
    """Sites by kind; the complete ones annotate every class, although their files show two."""
    complete = {name: replace(site, labels=complete_labels()) for name, site in tiny_sites.items()}
    return {"partial": tiny_sites, "complete": complete, "one": {"liver": tiny_sites["liver"]}}


@pytest.fixture(scope="module")
def run(tiny, sites, tmp_path_factory) -> Callable[[Case], list[dict]]:
    def federated(case: Case) -> list[dict]:
        plan, folder = tiny_plan(preset="tiny_supervised"), tmp_path_factory.mktemp("federation")
        return federate(sites[case.sites], plan, case.method, folder, case.optimizer, case.start_from)

    return federated


@pytest.fixture(scope="module")
def fedavg(run) -> Callable[[str], list[dict]]:
    """Models after each round of plain FedAvg of a kind of sites, trained once."""
    done: dict[str, list[dict]] = {}

    def of(kind: str) -> list[dict]:
        if kind not in done:
            done[kind] = run(Case(sites=kind))
        return done[kind]

    return of


def same(a: list[dict], b: list[dict]) -> list[bool]:
    """Whether the global models are equal bit for bit, round by round."""
    assert len(a) == len(b) == 2
    return [list(x) == list(y) and all(np.array_equal(x[n], y[n]) for n in x) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_fedavg(run, fedavg, name):
    case = LIMITS[name]
    assert same(run(case), fedavg(case.sites)) == [True, True]


@pytest.mark.parametrize("name", AWAY)
def test_away_from_the_limit_it_is_not(run, fedavg, name):
    case, expected = AWAY[name]
    assert same(run(case), fedavg(case.sites)) == expected


def distance(a: dict, b: dict) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def test_standalone_of_one_site_is_fedavg_of_that_site_up_to_one_rounding(run, fedavg):
    """FedAvg's site starts from global + (local - global), which float32 rounds; standalone from local itself."""
    alone = run(Case(start_from="local", sites="one"))
    apart = [distance(x, y) for x, y in zip(alone, fedavg("one"), strict=True)]
    assert max(apart) < 1e-6
    assert distance(alone[0], alone[1]) > 1e-3


def test_standalone_of_two_sites_is_not_fedavg(run, fedavg):
    """The mean of the local models after one round is still that of FedAvg; then every site goes its own way."""
    apart = [distance(x, y) for x, y in zip(run(Case(start_from="local")), fedavg("partial"), strict=True)]
    assert apart[0] < 1e-6
    assert apart[1] > 1e-4


def test_another_seed_gives_another_federation(fedavg, tiny_sites, tmp_path):
    other = federate(tiny_sites, tiny_plan(preset="tiny_supervised", seed=4), FedAvg(), tmp_path / "seed")
    assert same(other, fedavg("partial")) == [False, False]


def test_what_the_sites_do_depends_on_their_data(fedavg):
    assert same(fedavg("one"), fedavg("partial")) == [False, False]
    assert same(fedavg("complete"), fedavg("partial")) == [False, False]
