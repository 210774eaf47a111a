"""The server's own images without labels, on which the stored models meet (METHODS 4.3: WORD, images only)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedpartial.data.store import prepare_cases
from fedpartial.data.stored_case import StoredCase
from fedpartial.errors import ConfigError, check_keys, needs_space
from fedpartial.phantom import ensure_phantom
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig, read_public

SPLIT = "training"
UNLABELLED = "testing"
"""The split of a datalist whose cases may lack a label."""

Progress = Callable[[str, int, int], None]
"""Called with (what, done, in all)."""


def public_volumes(
    config_dir: Path, preset: Preset, *, phantom: bool, progress: Progress | None = None
) -> tuple[StoredCase, ...]:
    """The prepared volumes of ``<config_dir>/sites/public.json``, else of the phantom when ``phantom``.

    The file names data_root and a datalist whose "training" lists images; a label is refused, because it would not be
    used. Prepared once, like the cases of a site (data/store.py). Raises ConfigError and DataFaults.
    """
    site = read_public(config_dir, preset.label_space.classes, phantom=phantom)
    report = progress or (lambda *_: None)
    if site.source == "phantom":
        with needs_space("the phantom", site.data_root):
            ensure_phantom(site.data_root.parent, site.name, progress=lambda *counts: report("phantom case", *counts))
    listed = replace(site, datalist=_unlabelled_list(site, listed_images(site)))
    prepared = prepare_cases(listed, preset, (UNLABELLED,), lambda *counts: report("prepared case", *counts[:2]))
    return prepared.cases[UNLABELLED]


def listed_images(site: SiteConfig) -> list[Path]:
    """The files that "training" of the datalist lists; ConfigError for a list that is not one of images alone."""
    try:
        given = json.loads(site.datalist.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        remedy = 'Write, for example: {"training": [{"image": "a.nii.gz"}]}'
        raise _error(site, "(file)", str(error), "readable JSON", remedy) from error
    check_keys(given, list(given) if isinstance(given, dict) else (), (SPLIT,), where=str(site.datalist))
    if not isinstance(given[SPLIT], list) or not given[SPLIT]:
        raise _error(site, SPLIT, given[SPLIT], "a list of at least one image", 'For example [{"image": "a.nii.gz"}].')
    names = (_image(site, f"{SPLIT}[{index}]", entry) for index, entry in enumerate(given[SPLIT]))
    return [site.data_root / name for name in names]


def _image(site: SiteConfig, field: str, entry: object) -> str:
    entry = {"image": entry} if isinstance(entry, str) else entry
    if isinstance(entry, dict) and {"label", "labels"} & set(entry):
        remedy = "Take the label out; to learn from it, make its case part of a site."
        raise _error(site, field, "a label", "an image alone: the public volumes are unlabelled data", remedy)
    check_keys(entry, ("image",), ("image",), where=f"{site.datalist}: {field}")
    if not isinstance(entry["image"], str) or not entry["image"]:
        raise _error(site, f"{field}.image", entry["image"], "a path relative to data_root", "Write it in quotes.")
    return entry["image"]


def _unlabelled_list(site: SiteConfig, images: list[Path]) -> Path:
    """A datalist of our own with the same images as cases that may lack a label; its name follows from its content."""
    cases = [{"image": str(image)} for image in images]
    text = json.dumps({SPLIT: [], UNLABELLED: cases})
    path = site.cache_dir / "public" / f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _error(site: SiteConfig, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(site.datalist), field=field, got=got, expected=expected, remedy=remedy)
