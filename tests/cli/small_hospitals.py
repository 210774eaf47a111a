"""Two hospitals as files: images, labels, datalists, and the site files that name them."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_hospital import write_case

SITES = ("liver", "spleen")
SITE_LABELS = {"liver": {"1": "liver", "2": "liver_tumor"}, "spleen": {"1": "spleen", "2": "background"}}


def write_hospitals(root: Path) -> Path:
    """Site files <site>.json in ``root``/my sites, with paths relative to them; returns their folder."""
    folder = root / "my sites"
    folder.mkdir()
    for number, (name, labels) in enumerate(SITE_LABELS.items()):
        write_data(root / "data" / name, seed=100 * number)
        site = {"labels": labels, "data_root": f"../data/{name}", "cache_dir": "../cache", "device": "cpu"}
        (folder / f"{name}.json").write_text(json.dumps(site))
    return folder


def write_data(root: Path, seed: int = 0) -> None:
    """Two cases to train on, two to validate, one to test, with their datalist."""
    counts = {"training": 2, "validation": 2, "testing": 1}
    cases = {
        split: [write_case(root, f"{split}{i}", seed=seed + 10 * i + len(split)) for i in range(number)]
        for split, number in counts.items()
    }
    (root / "datalist.json").write_text(json.dumps(cases))
