"""Site files of tiny hospitals for the stages of MMDS: four of one organ each, one of several, and public images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tiny_hospital import write_case, write_nifti

LABELS = {
    "pancreas": {"1": "pancreas", "2": "pancreas_tumor"},
    "spleen": {"1": "spleen", "2": "background"},
    "kidney": {"1": "kidney", "2": "kidney_tumor"},
    "liver": {"1": "liver", "2": "liver_tumor"},
    "amos": {"1": "liver", "2": "spleen", "3": "pancreas", "4": "kidney", "5": "aorta", "6": "vena_cava"},
}
PUBLIC = "public"
COUNTS = {"training": 2, "validation": 1, "testing": 1}
SHAPE = (18, 14, 12)


def site_files(folder: Path) -> Path:
    """A folder for --site-config with a file for each of the five sites and for the public images."""
    for number, (site, labels) in enumerate(LABELS.items()):
        data, write = folder / f"{site}_data", _many if site == "amos" else write_case
        cases = {
            split: [write(data, f"{split}{i}", seed=1000 * number + 10 * i + len(split)) for i in range(count)]
            for split, count in COUNTS.items()
        }
        _write(folder, site, cases, {"labels": labels})
    images = [write_case(folder / f"{PUBLIC}_data", f"image{i}", seed=9000 + i)["image"] for i in range(2)]
    _write(folder, PUBLIC, {"training": [{"image": image} for image in images]}, {})
    return folder


def _write(folder: Path, name: str, cases: Mapping, more: Mapping) -> None:
    data = folder / f"{name}_data"
    (data / "datalist.json").write_text(json.dumps(cases), encoding="utf-8")
    given = {**more, "data_root": data.name, "cache_dir": f"{name}_cache", "device": "cpu"}
    (folder / f"{name}.json").write_text(json.dumps(given), encoding="utf-8")


def _many(root: Path, name: str, seed: int) -> dict:
    """Noise with six boxes, each brighter than the one before; returns its datalist entry."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value in range(1, 7):
        label[3 * value - 3 : 3 * value - 1, 2:9, 2:9] = value
    image = np.random.default_rng(seed).normal(0, 15, SHAPE) + 40.0 * label
    write_nifti(root / f"{name}.nii.gz", image.astype(np.float32))
    write_nifti(root / f"{name}_label.nii.gz", label)
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}
