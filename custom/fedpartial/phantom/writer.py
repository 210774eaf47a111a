"""The phantom's files: a Decathlon data set per site, written once and resumed after an interruption."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpartial.phantom.case import get_site, make_case

VERSION = 1
"""Raise when any case changes: folders of another version are not reused."""
log = logging.getLogger(__name__)


def phantom_dir(root: Path, site: str, seed: int = 0) -> Path:
    """The folder of a site's files for this version of the phantom."""
    return Path(root) / f"{site}-seed{seed}-v{VERSION}"


def ensure_phantom(root: Path, site: str, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write what is missing of a site's data set; returns the path of its datalist.json.

    Safe for several processes at once and after an interruption: files appear complete or not at all, and
    datalist.json last. ``progress(done, total)`` is called after every case.
    """
    get_site(site)
    folder = phantom_dir(root, site, seed)
    datalist = folder / "datalist.json"
    if datalist.exists():
        return datalist
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not datalist.exists():
            _write(folder, site, seed, progress)
    return datalist


def _lock(folder: Path):
    """Hold the folder's lock, waiting for another process without a limit; to be used in ``with``."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process that is writing %s", folder)
        return lock.acquire()


def _write(folder: Path, site: str, seed: int, progress: Callable[[int, int], None] | None) -> None:
    profile = get_site(site)
    for kind in ("images", "labels") if profile.labels else ("images",):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    total = profile.num_cases
    log.info("Writing the phantom of site %s: %d cases in %s", site, total, folder)
    for index in range(total):
        _write_case(folder, site, index, seed)
        if progress is not None:
            progress(index + 1, total)
    text = json.dumps(_datalist(site), indent=2) + "\n"
    part = folder / ".part-datalist.json"
    part.write_text(text, encoding="utf-8")
    os.replace(part, folder / "datalist.json")


def _write_case(folder: Path, site: str, index: int, seed: int) -> None:
    paths = [folder / name for name in _entry(site, index).values()]
    if all(path.exists() for path in paths):
        return
    case = make_case(site, index, seed=seed)
    for path, array in zip(paths, (case.image, case.label), strict=False):
        if not path.exists():
            _save(path, array, case.affine)


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """A NIfTI file in mm with both affines; the lock makes the temporary name ours alone."""
    import nibabel as nib

    nifti = nib.Nifti1Image(array, affine, dtype=array.dtype)
    nifti.set_qform(affine, code="scanner")
    nifti.set_sform(affine, code="scanner")
    nifti.header.set_xyzt_units("mm")
    part = path.with_name(f".part-{path.name}")
    try:
        nib.save(nifti, part)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk needs the room
        raise
    os.replace(part, path)


def _file_name(index: int) -> str:
    return f"case_{index:03d}.nii.gz"


def _entry(site: str, index: int) -> dict[str, str]:
    """Image and label of a case in the datalist; the image alone where the site draws nothing."""
    kinds = ("image", "label") if get_site(site).labels else ("image",)
    return {kind: f"{kind}s/{_file_name(index)}" for kind in kinds}


def _datalist(site: str) -> dict:
    profile = get_site(site)
    cases = [_entry(site, i) for i in range(profile.num_cases)]
    trained, validated = profile.training, profile.training + profile.validation
    return {
        "name": f"fedpartial phantom, site {site}",
        "description": "Parametric abdominal CT of the portal-venous phase; shows no patient.",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(raw): name for raw, name in profile.labels.items()}},
        "training": cases[:trained],
        "validation": cases[trained:validated],
        "testing": cases[validated:],
    }
