"""Fixtures: presets of the small networks that are exported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # federation and its neighbours
sys.path.insert(0, str(Path(__file__).parent))  # exported_networks


@pytest.fixture(scope="module")
def kinds(tiny):
    """get_preset() knows the presets of every kind of network in this module."""
    from exported_networks import PRESETS

    from fedpartial import presets

    with pytest.MonkeyPatch.context() as registry:
        for preset in PRESETS:
            registry.setitem(presets.PRESETS, preset.name, preset)
        yield
