"""What the shell offers on <Tab>: names of jobs and presets, without importing anything heavy."""

from __future__ import annotations

from pathlib import Path

import fedpartial

SHIPPED_JOBS = Path(fedpartial.__file__).parents[2] / "jobs"


def job_names(incomplete: str) -> list[str]:
    """Folders with a meta.json under jobs/, here or beside the package's source."""
    places = (Path("jobs"), SHIPPED_JOBS)
    found = {meta.parent.name for place in places for meta in place.glob("*/meta.json")}
    return sorted(name for name in found if name.startswith(incomplete))


def preset_names(incomplete: str) -> list[str]:
    from fedpartial.presets import PRESETS

    return sorted(name for name in PRESETS if name.startswith(incomplete))
