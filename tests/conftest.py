"""For every test: the cache is a temporary folder, and the helpers beside this file can be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "data"))  # tiny_hospital


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache, nor trains on a device that the user's shell names."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("cache")
        environment.setenv("FEDPARTIAL_CACHE", str(folder))
        environment.delenv("FEDPARTIAL_DEVICE", raising=False)
        yield folder


@pytest.fixture(params=["tiny"])
def tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A preset of seconds, known to get_preset() during the test; parametrise with "tiny_supervised" for two heads."""
    import federation

    from fedpartial import presets

    for preset in federation.TINY_PRESETS:
        monkeypatch.setitem(presets.PRESETS, preset.name, preset)
    return presets.PRESETS[request.param]


@pytest.fixture(scope="session")
def tiny_sites(tmp_path_factory: pytest.TempPathFactory):
    """Two hospitals of two training cases each; one annotates the liver and its tumours, one the spleen."""
    import federation
    import torch

    torch.set_num_threads(1)
    return federation.tiny_sites(tmp_path_factory.mktemp("hospitals"))
