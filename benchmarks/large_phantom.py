"""CTs of the size that hospitals have, painted with the phantom's patients and scanner, as files for benchmarks.

The embedded phantom is coarse (3 mm) so that a laptop trains on it in minutes. Here the same patients are painted on
fine grids: intensities, noise, organs and their labels are like those of real files in size, type and compressibility.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedpartial.phantom.organs import paint_organs
from fedpartial.phantom.profiles import PHANTOM_SITES
from fedpartial.phantom.scanner import place_patient, scan
from fedpartial.phantom.surroundings import paint_surroundings
from fedpartial.phantom.tissue import raw_values
from fedpartial.sites import SiteConfig

SITE = "liver"
GRIDS = (
    ((512, 512, 100), (0.80, 0.80, 2.5)),
    ((512, 512, 120), (0.75, 0.75, 2.0)),
    ((512, 512, 60), (0.85, 0.85, 5.0)),
    ((512, 512, 90), (0.70, 0.70, 3.0)),
)
"""Voxels and mm; the cases go through them in turn."""


def ensure_large_cases(folder: Path, count: int, seed: int = 0) -> None:
    """Write the images and labels of ``count`` different patients into ``folder``, about 30 s each; keep what is there.

    Labels hold 1 = liver and 2 = liver tumour, as ConDistFL's liver site has them.
    """
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, label = files = [folder / f"{kind}_{index}.nii.gz" for kind in ("image", "label")]
        if not all(file.exists() for file in files):
            *arrays, affine = paint(*GRIDS[index % len(GRIDS)], np.random.default_rng([seed, index]))
            for file, array in zip((label, image), arrays[::-1], strict=True):
                nibabel.save(nibabel.Nifti1Image(array, affine), file)


def paint(
    shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image int16 HU and label uint8, both (H W D), and the affine, of a new patient."""
    profile = PHANTOM_SITES[SITE]
    affine = np.diag([*spacing_mm, 1.0])
    canvas = place_patient(tuple(shape), affine, rng)
    paint_surroundings(canvas, rng)
    paint_organs(canvas, rng)
    return scan(canvas, affine, profile, rng), raw_values(profile)[canvas.tissue], affine


def site_of(folder: Path, cases: int, distinct: int, cache: Path) -> SiteConfig:
    """A site of ``cases`` training cases over the ``distinct`` patients in ``folder``, as hard links in ``cache``."""
    cache.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(cases):
        entry = {kind: f"{kind}_{number}.nii.gz" for kind in ("image", "label")}
        for kind, name in entry.items():
            if not (cache / name).exists():
                (cache / name).hardlink_to(folder / f"{kind}_{number % distinct}.nii.gz")
        entries.append(entry)
    datalist = cache / "datalist.json"
    datalist.write_text(json.dumps({"training": entries, "validation": [], "testing": []}))
    return SiteConfig(
        name=SITE,
        source="site file",
        where="benchmark",
        labels=PHANTOM_SITES[SITE].labels,
        data_root=cache,
        datalist=datalist,
        cache_dir=cache,
        model_dir=cache / "models",
    )
