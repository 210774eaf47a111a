"""Tiny hospitals: random NIfTI files, a datalist and a site."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from fedpartial.data import stored_case
from fedpartial.data.stored_case import StoredCase
from fedpartial.presets import ABDOMEN
from fedpartial.sites import SiteConfig

LIVER = {1: "liver", 2: "liver_tumor"}


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Save an array as it is, with a diagonal 2 mm affine unless another is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def write_case(root: Path, name: str, shape=(16, 14, 12), seed: int = 0) -> dict:
    """An image of noise and a label with 100 voxels of class 1 and 8 of class 2; returns its datalist entry."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.uint8)
    label[4:9, 4:8, 3:8] = 1
    label[5:7, 5:7, 4:6] = 2
    write_nifti(root / f"{name}.nii.gz", rng.normal(100, 60, shape).astype(np.float32))
    write_nifti(root / f"{name}_label.nii.gz", label)
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}


def write_site(root: Path, datalist: dict, labels: dict[int, str] | None = None) -> SiteConfig:
    """A site over the files in ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "datalist.json").write_text(json.dumps(datalist))
    return SiteConfig(
        name="here",
        source="site file",
        where="sites/here.json",
        labels=dict(labels or LIVER),
        data_root=root,
        datalist=root / "datalist.json",
        cache_dir=root / "cache",
        model_dir=root / "models",
    )


def store_arrays(folder: Path, image: np.ndarray, label: np.ndarray, classes: tuple[str, ...], index=0) -> StoredCase:
    """A prepared case made directly from its arrays (H W D)."""
    folder.mkdir()
    stored_case.write_case(folder, image, label, {})
    rows = json.loads((folder / stored_case.META).read_text())["foreground_rows"]
    return StoredCase(
        folder=folder,
        index=index,
        split="training",
        labelled=ABDOMEN.labelled_mask(classes),
        affine=np.eye(4),
        original_shape=image.shape,
        original_affine=np.eye(4),
        image_path=folder,
        label_path=folder,
        foreground_rows={int(channel): tuple(span) for channel, span in rows.items()},
    )
