"""Site files: the only thing a hospital edits.

``local/sites/<site>.json`` in the site's own FLARE workspace says what the site annotates and where its
data lies. A site without such a file whose name the phantom knows uses the phantom.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from fedpartial.errors import ConfigError, check_keys, unique_keys
from fedpartial.phantom import PHANTOM_SITES, phantom_dir

ALLOWED = ("labels", "data_root", "datalist", "device", "num_workers", "cache_dir")
REQUIRED = ("labels", "data_root")
CACHE_VARIABLE = "FEDPARTIAL_CACHE"
DEVICE_VARIABLE = "FEDPARTIAL_DEVICE"
EXAMPLE = '{"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": "/path/to/data", "datalist": "datalist.json"}'


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """What one site annotates and where its data and cache lie."""

    name: str
    source: Literal["phantom", "site file"]
    where: str
    labels: dict[int, str]
    data_root: Path
    datalist: Path
    device: str = "auto"
    num_workers: int = 0
    cache_dir: Path


def default_cache_dir() -> Path:
    """Where phantoms and prepared cases live between runs: $FEDPARTIAL_CACHE, else the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("fedpartial")).absolute()


def site_file(config_dir: Path, name: str) -> Path:
    return config_dir / "sites" / f"{name}.json"


def read_site(name: str, config_dir: Path) -> SiteConfig:
    """The configuration of site ``name``; ``config_dir`` is the ``local`` folder of its FLARE workspace.

    Raises ConfigError for an unreadable file, an unknown key or a wrong value, and for a site that has
    neither a file nor a phantom.
    """
    path = site_file(config_dir, name)
    if path.exists():
        return _with_device_from_environment(_parse(name, path))
    if name in PHANTOM_SITES:
        return _with_device_from_environment(phantom_site(name))
    raise ConfigError(
        where=str(path),
        field="(file)",
        got="no such file",
        expected=f"a site file, or a site of the phantom ({', '.join(PHANTOM_SITES)})",
        remedy=f"Write {path} with, for example: {EXAMPLE}",
    )


def phantom_site(name: str) -> SiteConfig:
    """The embedded data set as a site."""
    cache = default_cache_dir()
    root = phantom_dir(cache / "phantom", name)
    return SiteConfig(
        name=name,
        source="phantom",
        where=f"phantom site {name}",
        labels=dict(PHANTOM_SITES[name].labels),
        data_root=root,
        datalist=root / "datalist.json",
        cache_dir=cache,
    )


def _with_device_from_environment(site: SiteConfig) -> SiteConfig:
    device = os.environ.get(DEVICE_VARIABLE)
    return site if not device else SiteConfig(**{**site.__dict__, "device": device})


def _parse(name: str, path: Path) -> SiteConfig:
    try:
        given = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise _error(path, "(file)", str(error), "readable JSON", f"Write, for example: {EXAMPLE}") from error
    check_keys(given, ALLOWED, REQUIRED, where=str(path))
    root = _path(path, given, "data_root", base=path.parent)
    if not root.is_dir():
        raise _error(path, "data_root", str(root), "an existing folder", "Correct the path or mount the data.")
    datalist = _path(path, {"datalist": given.get("datalist", "datalist.json")}, "datalist", base=root)
    if not datalist.is_file():
        raise _error(
            path,
            "datalist",
            str(datalist),
            "an existing Decathlon datalist",
            "Write it with the keys training, validation and testing, or correct the path (relative to data_root).",
        )
    return SiteConfig(
        name=name,
        source="site file",
        where=str(path),
        labels=_labels(path, given["labels"]),
        data_root=root,
        datalist=datalist,
        device=_device(path, given.get("device", "auto")),
        num_workers=_num_workers(path, given),
        cache_dir=_path(path, given, "cache_dir", base=path.parent) if "cache_dir" in given else default_cache_dir(),
    )


def _labels(path: Path, given: object) -> dict[int, str]:
    if not isinstance(given, dict) or not given:
        raise _error(path, "labels", given, "an object of raw value -> class name", 'For example {"1": "liver"}.')
    labels: dict[int, str] = {}
    for raw, name in given.items():
        if not raw.isascii() or not raw.isdigit() or not isinstance(name, str):
            raise _error(
                path,
                f"labels.{raw}",
                name,
                "an integer in quotes as key and a class name as value",
                'For example {"1": "liver"}.',
            )
        if int(raw) in labels:
            raise _error(path, f"labels.{raw}", name, "each label value once", "Remove the second one.")
        labels[int(raw)] = name
    return labels


def _path(path: Path, given: dict, field: str, *, base: Path) -> Path:
    value = given[field]
    if not isinstance(value, str) or not value:
        raise _error(path, field, value, "a path", "Write it as text in quotes.")
    try:
        return (base / Path(value).expanduser()).absolute()
    except RuntimeError as error:
        raise _error(path, field, value, "a path whose home folder exists", "Write the path in full.") from error


def _num_workers(path: Path, given: dict) -> int:
    value = given.get("num_workers", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _error(path, "num_workers", value, "an integer of at least 0", "0 loads in the training process.")
    return value


def _device(path: Path, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _error(path, "device", value, "a torch device such as auto, cpu or cuda", "'auto' fits every machine.")
    return value


def _error(path: Path, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(path), field=field, got=got, expected=expected, remedy=remedy)
