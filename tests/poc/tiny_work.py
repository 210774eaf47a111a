"""Bundles of one round of one step, and hospitals of a few tiny cases, so that a federation ends within seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tiny_hospital import write_case

from fedpartial.cli.bundle import Options, write_bundle

LABELS = {"liver": {"1": "liver", "2": "liver_tumor"}, "spleen": {"1": "spleen", "2": "background"}}
SITES = tuple(LABELS)


def bundle(out: Path, code: str = "installed", sites: Sequence[str] = SITES, **options) -> Path:
    """What ``fedpartial bundle`` writes, of condistfl for one round of one step unless ``options`` say otherwise."""
    tiny = {"job": "condistfl", "rounds": 1, "local_steps": 1, "sites": tuple(sites), **options}
    write_bundle(Options(out=out, code=code, **tiny))
    return out


def edit(path: Path, how: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    how(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def hospitals(folder: Path, prefix: str = "case") -> dict[str, Path]:
    """Site files by site. Every folder and file of a hospital's data carries ``prefix`` in its name."""
    return {site: _hospital(folder / site, site, prefix, 100 * number) for number, site in enumerate(SITES)}


def _hospital(folder: Path, site: str, prefix: str, seed: int) -> Path:
    root = folder / f"{prefix}_data"
    counts = {"training": 2, "validation": 1, "testing": 1}
    cases = {
        split: [write_case(root, f"{prefix}_{split}{i}", seed=seed + 10 * i + len(split)) for i in range(number)]
        for split, number in counts.items()
    }
    (root / "datalist.json").write_text(json.dumps(cases), encoding="utf-8")
    file = folder / f"{site}.json"
    given = {"labels": LABELS[site], "data_root": root.name, "cache_dir": f"{prefix}_cache", "device": "cpu"}
    file.write_text(json.dumps(given), encoding="utf-8")
    return file
