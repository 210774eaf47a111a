"""Site files: the only thing a hospital edits.

``local/sites/<site>.json`` in the site's own FLARE workspace says what the site annotates and where its
data lies. A site without such a file whose name the phantom knows uses the phantom. A pool holds the data of several
sites in one place, for centralised training: the upper bound that a federation is compared with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import platformdirs

from fedpartial.errors import ConfigError, check_keys, unique_keys
from fedpartial.phantom import PHANTOM_POOLS, PHANTOM_SITES, phantom_dir

ALLOWED = ("labels", "data_root", "datalist", "device", "num_workers", "cache_dir", "model_dir")
REQUIRED = ("labels", "data_root")
PUBLIC = "public"
"""Name of the server's own images without labels, as a site file and as a site of the phantom."""
PUBLIC_ALLOWED = ("data_root", "datalist", "device", "cache_dir")
POOL_ALLOWED = ("pool", "device", "num_workers", "model_dir")
CACHE_VARIABLE = "FEDPARTIAL_CACHE"
HOME_VARIABLE = "FEDPARTIAL_HOME"
DEVICE_VARIABLE = "FEDPARTIAL_DEVICE"
EXAMPLE = '{"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": "/path/to/data", "datalist": "datalist.json"}'


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """What one site annotates and where its data and cache lie.

    model_dir: the folder in which its own models outlive the jobs that made them.
    """

    name: str
    source: Literal["phantom", "site file"]
    where: str
    labels: dict[int, str]
    data_root: Path
    datalist: Path
    device: str = "auto"
    num_workers: int = 0
    cache_dir: Path
    model_dir: Path

    @property
    def members(self) -> tuple[SiteConfig, ...]:
        """The sites whose cases it holds: itself."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class SitePool:
    """Several sites' data in one place; every case keeps the labels of its own site."""

    name: str
    source: Literal["phantom", "site file"]
    where: str
    members: tuple[SiteConfig, ...]
    device: str = "auto"
    num_workers: int = 0
    model_dir: Path


def default_cache_dir() -> Path:
    """Where phantoms and prepared cases live between runs: $FEDPARTIAL_CACHE, else the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("fedpartial")).absolute()


def default_home() -> Path:
    """Where models that outlive a job lie: $FEDPARTIAL_HOME, else the user's data folder."""
    return Path(os.environ.get(HOME_VARIABLE) or platformdirs.user_data_dir("fedpartial")).absolute()


def default_model_dir() -> Path:
    """Of sites that name none; in it every federation and site has a folder of its own (training/own_models.py)."""
    return default_home() / "sites"


def site_file(config_dir: Path, name: str) -> Path:
    return config_dir / "sites" / f"{name}.json"


def read_site(name: str, config_dir: Path) -> SiteConfig | SitePool:
    """The configuration of site ``name``; ``config_dir`` is the ``local`` folder of its FLARE workspace.

    A file {"pool": ["kidney", "liver"]} names sites whose files lie beside it.

    Raises ConfigError for an unreadable file, an unknown key or a wrong value, and for a site that has
    neither a file nor a phantom.
    """
    path = site_file(config_dir, name)
    if path.exists():
        return _with_device_from_environment(_parse(name, path))
    if name in PHANTOM_SITES:
        return _with_device_from_environment(phantom_site(name))
    if name in PHANTOM_POOLS:
        members = tuple(phantom_site(member) for member in PHANTOM_POOLS[name])
        where, models = f"phantom pool {name}", default_model_dir()
        pool = SitePool(name=name, source="phantom", where=where, members=members, model_dir=models)
        return _with_device_from_environment(pool)
    raise ConfigError(
        where=str(path),
        field="(file)",
        got="no such file",
        expected=f"a site file, or a site of the phantom ({', '.join(PHANTOM_SITES)})",
        remedy=f"Write {path} with, for example: {EXAMPLE}",
    )


def read_site_file(path: Path) -> SiteConfig | SitePool:
    """The site that a file describes, wherever it lies; its name is the file's, ``liver`` for my_sites/liver.json.

    Never the phantom, whatever the name. Raises ConfigError like read_site, and where there is no such file.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        remedy = f"Correct the path, or write it with 'fedpartial datalist'. For example: {EXAMPLE}"
        raise _error(path, "(file)", got, "a site file", remedy)
    return _with_device_from_environment(_parse(path.stem, path))


def read_public(config_dir: Path, classes: Sequence[str], *, phantom: bool) -> SiteConfig:
    """The server's images without labels: ``local/sites/public.json``, else the phantom's when ``phantom``.

    Nothing in them is annotated, so the file has no labels; ``classes`` stand in their place. Raises ConfigError like
    read_site, and where there is neither a file nor a phantom.
    """
    path = site_file(config_dir, PUBLIC)
    if path.exists():
        return read_public_file(path, classes)
    if phantom:
        labels = dict(enumerate(classes, start=1))
        return _with_device_from_environment(replace(phantom_site(PUBLIC), labels=labels))
    example = '{"data_root": "/path/to/data", "datalist": "datalist.json"}'
    listed = 'The datalist has {"training": [{"image": "a.nii.gz"}]}, without labels.'
    remedy = f"Write {path} with, for example: {example}. {listed}"
    raise _error(path, "(file)", "no such file", "the server's own images, for distillation", remedy)


def read_public_file(path: Path, classes: Sequence[str]) -> SiteConfig:
    """The images without labels that a file describes, wherever it lies; raises ConfigError like read_public."""
    given = _given(path)
    check_keys(given, PUBLIC_ALLOWED, ("data_root",), where=str(path))
    named = {**given, "labels": {str(raw): name for raw, name in enumerate(classes, start=1)}}
    return _with_device_from_environment(_parse_site(PUBLIC, path, named))


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
        model_dir=default_model_dir(),
    )


def _with_device_from_environment(site: SiteConfig | SitePool) -> SiteConfig | SitePool:
    device = os.environ.get(DEVICE_VARIABLE)
    return replace(site, device=device) if device else site


def _parse(name: str, path: Path) -> SiteConfig | SitePool:
    given = _given(path)
    return _parse_pool(name, path, given) if _is_pool(given) else _parse_site(name, path, given)


def _given(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise _error(path, "(file)", str(error), "readable JSON", f"Write, for example: {EXAMPLE}") from error


def _is_pool(given: object) -> bool:
    return isinstance(given, dict) and "pool" in given


def _parse_site(name: str, path: Path, given: object) -> SiteConfig:
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
        model_dir=_model_dir(name, path, given),
    )


def _parse_pool(name: str, path: Path, given: dict) -> SitePool:
    check_keys(given, POOL_ALLOWED, ("pool",), where=str(path))
    names = given["pool"]
    if not _are_neighbours(names, path) or not names or len(set(names)) < len(names) or name in names:
        expected = "a list of different sites whose files lie beside this one"
        raise _error(path, "pool", names, expected, 'For example ["kidney", "liver"] with kidney.json and liver.json.')
    files = {member: path.parent / f"{member}.json" for member in sorted(names)}
    contents = {member: _given(file) for member, file in files.items()}
    if pools := [member for member, content in contents.items() if _is_pool(content)]:
        raise _error(path, "pool", pools, "sites with data of their own", "Name the sites, not another pool.")
    return SitePool(
        name=name,
        source="site file",
        where=str(path),
        members=tuple(_parse_site(member, files[member], content) for member, content in contents.items()),
        device=_device(path, given.get("device", "auto")),
        num_workers=_num_workers(path, given),
        model_dir=_model_dir(name, path, given),
    )


def _model_dir(name: str, path: Path, given: dict) -> Path:
    return _path(path, given, "model_dir", base=path.parent) if "model_dir" in given else default_model_dir()


def _are_neighbours(names: object, path: Path) -> bool:
    return isinstance(names, list) and all(isinstance(n, str) and (path.parent / f"{n}.json").is_file() for n in names)


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
