"""For every test: the cache is a temporary folder, a fast test computes in one thread, helpers can be imported."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAST = "not slow and not poc and not gpu"

for folder in ("data", "datasets"):  # tiny_hospital, layouts
    sys.path.insert(0, str(Path(__file__).parent / folder))


def pytest_configure(config: pytest.Config) -> None:
    """The volumes of fast tests are too small for two threads, which on busy cores wait for each other."""
    if config.option.markexpr == FAST:
        os.environ["OMP_NUM_THREADS"] = "1"
        if torch := sys.modules.get("torch"):  # a chosen folder's conftest may have imported it before
            torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import stays to the end, so nobody looks for garbage in it: seconds of every worker."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Fast tests share two to four cores; a chosen few, and those that start processes, run in this one."""
    chosen = [arg for arg in config.invocation_params.args if "tests" in Path(str(arg).split("::")[0]).parts]
    if chosen or config.option.markexpr != FAST:
        return 0
    return min(os.cpu_count() or 1, 4)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache, nor trains on a device that the user's shell names."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("cache")
        environment.setenv("FEDPARTIAL_CACHE", str(folder))
        environment.delenv("FEDPARTIAL_DEVICE", raising=False)
        yield folder


@pytest.fixture(scope="module")
def tiny():
    """A preset of seconds; get_preset() knows it in this module, and "tiny_supervised" and "tiny_heads"."""
    import federation
    import private_heads
    from fedpartial import presets

    with pytest.MonkeyPatch.context() as registry:
        for preset in (*federation.TINY_PRESETS, private_heads.TINY_HEADS):
            registry.setitem(presets.PRESETS, preset.name, preset)
        yield federation.TINY


@pytest.fixture(scope="session")
def tiny_sites(tmp_path_factory: pytest.TempPathFactory):
    """Two hospitals of two training cases each; one annotates the liver and its tumours, one the spleen."""
    import torch

    import federation

    torch.set_num_threads(1)
    return federation.tiny_sites(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of this test have no curves: drawing them takes most of the time, and the test looks at other things."""
    from fedpartial.evaluation import figures

    for name in ("validation_curves", "loss_curves", "dice_by_class", "bytes_by_round", "seconds_by_phase"):
        monkeypatch.setattr(figures, name, lambda *_: None)
