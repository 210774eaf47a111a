"""FL-PSMOS without what makes it FL-PSMOS is FedAvg, bit for bit, over two rounds of a federation of two sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from federation import TINY_SUPERVISED, federate, tiny_plan
from fedpartial import presets
from fedpartial.methods.base import Method
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.margexc import MargExc
from fedpartial.presets import PHANTOM_PSMOS

SIDED = replace(
    TINY_SUPERVISED,
    name="tiny_sided",
    label_space=PHANTOM_PSMOS.label_space,
    optimizer=replace(PHANTOM_PSMOS.optimizer, plateau=replace(PHANTOM_PSMOS.optimizer.plateau, steps=1, drop=10.0)),
)
"""Label space and learning rate of jobs/psmos: both kidneys, and a rate that falls after the second round."""
DICE_CE = {"dice": 1.0, "ce": 1.0}
LIMITS = {
    "nothing excluded": MargExc(marginal=DICE_CE, exclusion={}),
    "exclusion of weight 0": MargExc(marginal=DICE_CE, exclusion={"dice": 0.0, "ce": 0.0, "lovasz": 0.0}),
    "other losses of weight 0": MargExc(marginal={**DICE_CE, "lovasz": 0.0, "topk": 0}, exclusion={"focal": 0}),
}
AWAY = {
    "the paper's": MargExc(),
    "exclusion": MargExc(marginal=DICE_CE, exclusion=DICE_CE),
    "Lovász": MargExc(marginal={**DICE_CE, "lovasz": 1.0}, exclusion={}),
    "another weight": MargExc(marginal={"dice": 1.0, "ce": 0.5}, exclusion={}),
}


@pytest.fixture(scope="module")
def run(tiny, tiny_sites, tmp_path_factory) -> Iterator[Callable[[Method, str], list[dict]]]:
    """Global models after both rounds; uniform weights and no pretraining, as in jobs/fedavg."""

    def federated(method: Method, preset: str) -> list[dict]:
        return federate(tiny_sites, tiny_plan(preset=preset), method, tmp_path_factory.mktemp("federation"))

    with pytest.MonkeyPatch.context() as registry:
        registry.setitem(presets.PRESETS, SIDED.name, SIDED)
        yield federated


@pytest.fixture(scope="module")
def fedavg(run) -> dict[str, list[dict]]:
    return {preset: run(FedAvg(), preset) for preset in (TINY_SUPERVISED.name, SIDED.name)}


def same(a: list[dict], b: list[dict]) -> list[bool]:
    assert len(a) == len(b) == 2
    return [list(x) == list(y) and all(np.array_equal(x[n], y[n]) for n in x) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("preset", [TINY_SUPERVISED.name, SIDED.name])
@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_fedavg(run, fedavg, name, preset):
    assert same(run(LIMITS[name], preset), fedavg[preset]) == [True, True]


@pytest.mark.parametrize("name", AWAY)
def test_away_from_the_limit_it_is_not(run, fedavg, name):
    assert same(run(AWAY[name], SIDED.name), fedavg[SIDED.name]) == [False, False]
