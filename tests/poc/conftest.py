"""One federation for the tests of faults that leave it whole, and a run in it that nothing interrupts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fault_work import federation, results, weights, whole_job
from real_federation import Federation


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory):
    """Two hospitals, liver and spleen. A test that ends a process starts it again."""
    with federation(tmp_path_factory.mktemp("consortium")) as running:
        yield running


@pytest.fixture(scope="session")
def twins(consortium: Federation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same job submitted twice at once, before anything is prepared: the server's results by job."""
    job = whole_job(tmp_path_factory.mktemp("jobs") / "whole")
    jobs = [consortium.submit(job) for _ in range(2)]
    for each in jobs:
        assert consortium.wait(each) == "FINISHED:COMPLETED"
    return {each: results(consortium, each) for each in jobs}


@pytest.fixture(scope="session")
def uninterrupted(twins: dict[str, Path]) -> dict[str, np.ndarray]:
    """The final model of ``whole_job``."""
    return weights(next(iter(twins.values())))
