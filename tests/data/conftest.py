from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_hospital import write_case, write_site

from fedpartial.presets import PHANTOM, Preset
from fedpartial.sites import SiteConfig


@pytest.fixture
def preset() -> Preset:
    """The phantom's preset with a 2 mm grid and a small patch."""
    return replace(PHANTOM, spacing_mm=(2.0, 2.0, 2.0), patch=(8, 8, 8))


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., SiteConfig]:
    """Builds a site of faultless cases: ``make_site(training=2, validation=1)``."""

    def make(training: int = 2, validation: int = 1, **case) -> SiteConfig:
        root = tmp_path / "data"
        names = {"training": [f"t{i}" for i in range(training)], "validation": [f"v{i}" for i in range(validation)]}
        entries = {s: [write_case(root, n, seed=i, **case) for i, n in enumerate(ns)] for s, ns in names.items()}
        return write_site(root, entries)

    return make
