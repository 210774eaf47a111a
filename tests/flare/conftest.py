from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from in_process import Hospital, Server
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

from federation import TINY
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state


@pytest.fixture(autouse=True, scope="session")
def messages() -> None:
    """FLARE's own serialisation, as server and clients set it up."""
    nvflare_fobs_initialize()


@pytest.fixture(autouse=True, scope="session")
def imported_for_good(weights: dict) -> None:
    """FLARE looks for garbage after every run; it need not look through torch and MONAI, 0.2 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def weights() -> dict:
    """A global model as arrays; do not change it."""
    return {name: tensor.numpy() for name, tensor in canonical_state(build_network(TINY, seed=7)).items()}


@pytest.fixture
def make_hospital(tiny, tiny_sites: dict, tmp_path: Path) -> Callable[..., Hospital]:
    """Builds sites: ``make_hospital("liver", lasting=False)``."""

    def make(name: str = "liver", method=None, folder: str = "sites", **options) -> Hospital:
        return Hospital(tiny_sites[name], method or ConDistFL(), tmp_path / folder / name, **options)

    return make


@pytest.fixture
def make_server(make_hospital: Callable[..., Hospital], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Builds a server with the two hospitals: ``make_server(generator=..., method=..., num_rounds=3)``."""

    def make(
        generator=None, method=None, folder: str = "run", lasting: bool = True, start_from: str = "global", **plan
    ) -> Server:
        names, options = ("liver", "spleen"), {"lasting": lasting, "start_from": start_from}
        hospitals = {n: make_hospital(n, method, folder=f"{folder}/sites", **options) for n in names}
        return Server(tmp_path / folder / "server", hospitals, generator or FullModelShareableGenerator(), **plan)

    return make
