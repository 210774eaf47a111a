from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from federation import TINY
from fedpartial.data.store import prepare_cases
from fedpartial.data.stored_case import StoredCase
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.precision import Precision
from fedpartial.training.schedule import Schedule

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def cases(tiny_sites: dict) -> tuple[StoredCase, ...]:
    """The prepared training cases of the liver site."""
    return prepare_cases(tiny_sites["liver"], TINY).training


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """A global model."""
    return canonical_state(build_network(TINY, seed=7))


@pytest.fixture
def make_trainer(cases: tuple[StoredCase, ...], tmp_path: Path) -> Callable[..., LocalTrainer]:
    """Builds trainers that share the folder ``tmp_path / "state"``: ``make_trainer(method=..., seed=1)``."""

    def make(**changes) -> LocalTrainer:
        defaults = {
            "preset": TINY,
            "method": ConDistFL(),
            "cases": cases,
            "site": "liver",
            "seed": 0,
            "schedule": Schedule(num_rounds=3, local_steps=2),
            "precision": CPU,
            "state_dir": tmp_path / "state",
        }
        return LocalTrainer(**{**defaults, **changes})

    return make
