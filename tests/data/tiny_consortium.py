"""Site files of tiny hospitals, a few cases each: one annotates every organ, the others one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tiny_hospital import write_case, write_nifti

LABELS = {
    "full": {"1": "liver", "2": "spleen", "3": "pancreas", "4": "kidney"},
    "liver": {"1": "liver", "2": "liver_tumor"},
    "spleen": {"1": "spleen", "2": "background"},
}
COUNTS = {"training": 2, "validation": 1, "testing": 1}
SHAPE, SPACING_MM = (24, 14, 12), 4.0
ORGANS = {1: [np.s_[13:20, 1:6, 1:9]], 2: [np.s_[3:8, 1:6, 2:9]], 3: [np.s_[9:12, 6:9, 2:10]]}
KIDNEYS = [np.s_[18:22, 9:13, 3:9], np.s_[2:6, 9:13, 3:9]]
"""Right and left, 64 mm apart: the label file says "kidney" for both."""


def site_files(folder: Path, sites: tuple[str, ...]) -> Path:
    """A folder for --site-config with a file for each of these sites; data and cache of a site lie beside it."""
    for number, site in enumerate(sites):
        data = folder / f"{site}_data"
        write = _full_case if site == "full" else write_case
        cases = {
            split: [write(data, f"{split}{i}", seed=1000 * number + 10 * i + len(split)) for i in range(count)]
            for split, count in COUNTS.items()
        }
        (data / "datalist.json").write_text(json.dumps(cases), encoding="utf-8")
        given = {"labels": LABELS[site], "data_root": data.name, "cache_dir": f"{site}_cache", "device": "cpu"}
        (folder / f"{site}.json").write_text(json.dumps(given), encoding="utf-8")
    return folder


def pool_file(folder: Path, name: str, members: tuple[str, ...]) -> Path:
    """Add a site that holds the cases of others."""
    (folder / f"{name}.json").write_text(json.dumps({"pool": list(members)}), encoding="utf-8")
    return folder


def _full_case(root: Path, name: str, seed: int) -> dict:
    """Noise with every organ brighter than the one before; returns its datalist entry."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, boxes in {**ORGANS, 4: KIDNEYS}.items():
        for box in boxes:
            label[box] = value
    image = np.random.default_rng(seed).normal(0, 15, SHAPE) + 40.0 * label
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    write_nifti(root / f"{name}.nii.gz", image.astype(np.float32), affine)
    write_nifti(root / f"{name}_label.nii.gz", label, affine)
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}
