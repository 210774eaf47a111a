"""What ``fedpartial check`` is pointed at: a site file, a folder of them, or a site of the phantom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedpartial.cli.json_file import read_json
from fedpartial.data.datalist import SPLITS, Case, read_datalist
from fedpartial.distillation.public_volumes import listed_images
from fedpartial.errors import ConfigError, needs_space
from fedpartial.labels import LabelSpace
from fedpartial.phantom import PHANTOM_SITES, ensure_phantom
from fedpartial.presets import PRESETS, Preset, get_preset
from fedpartial.sites import PUBLIC, SiteConfig, phantom_site, read_public_file, read_site_file

PHANTOM = "phantom:"
DEFAULT_PRESET = "abdomen"


def open_target(
    given: Path, preset: Preset, progress: Callable[[int, int], None]
) -> tuple[list[SiteConfig], list[ConfigError]]:
    """The sites, each once, and what is wrong with their files. ConfigError where there is no site file at all.

    progress(cases written, cases in all): of a phantom that is made for the first time.
    """
    if str(given).startswith(PHANTOM):
        return [_phantom(str(given).removeprefix(PHANTOM), progress)], []
    files = _site_files(given.expanduser()) if given.expanduser().is_dir() else [given]
    sites: dict[Path, SiteConfig] = {}
    wrong: list[ConfigError] = []
    for file in files:
        try:
            sites |= {Path(member.where): member for member in _members(file, preset)}
        except ConfigError as error:
            wrong.append(error)
    return list(sites.values()), wrong


def choose_preset(name: str | None) -> Preset:
    """The preset of --preset; ConfigError for an unknown one."""
    if name is not None and name not in PRESETS:
        expected, remedy = f"one of {', '.join(PRESETS)}", "Correct its spelling."
        raise ConfigError(where="fedpartial check", field="--preset", got=name, expected=expected, remedy=remedy)
    return get_preset(name or DEFAULT_PRESET)


def cases_of(site: SiteConfig, preset: Preset) -> list[Case]:
    """All cases of a site; ConfigError for its datalist, and for classes that the preset does not know."""
    if site.name == PUBLIC:
        return [_unlabelled(index, image) for index, image in enumerate(listed_images(site))]
    _check_names(site, preset)
    by_split = read_datalist(site)
    return [case for split in SPLITS for case in by_split[split]]


def fitting_presets(site: SiteConfig) -> list[str]:
    """Presets of the papers whose label space knows every class of the site."""
    papers = {name: preset for name, preset in PRESETS.items() if not name.startswith("phantom")}
    return [name for name, preset in papers.items() if _knows(preset.label_space, site)]


def _members(file: Path, preset: Preset) -> tuple[SiteConfig, ...]:
    """Of a pool its sites, else the site itself. public.json is the server's own images, whatever their classes."""
    if file.name == f"{PUBLIC}.json" and file.is_file():
        return (read_public_file(file.absolute(), preset.label_space.classes),)
    if file.is_file() and not _may_be_site(file):
        expected, remedy = "a site file", "Name the site file that 'fedpartial datalist' has written with it."
        raise ConfigError(where=str(file), field="(file)", got="another JSON file", expected=expected, remedy=remedy)
    return read_site_file(file).members


def _unlabelled(index: int, image: Path) -> Case:
    return Case(index=index, split=SPLITS[0], image=image, label=None, labels=None)


def _check_names(site: SiteConfig, preset: Preset) -> None:
    try:
        preset.label_space.table(site.labels, where=site.where)
    except ConfigError as error:
        others = " or ".join(f"--preset {name}" for name in fitting_presets(site))
        remedy = f"All names of the site fit {others}." if others else error.remedy
        raise ConfigError(**{**vars(error), "remedy": remedy}) from error


def _knows(space: LabelSpace, site: SiteConfig) -> bool:
    try:
        space.table(site.labels, where=site.where)
    except ConfigError:
        return False
    return True


def _site_files(folder: Path) -> list[Path]:
    folder = folder / "sites" if (folder / "sites").is_dir() else folder
    files = [path for path in sorted(folder.glob("*.json")) if _may_be_site(path)]
    if not files:
        expected = "a site file, or a folder with <site>.json or sites/<site>.json"
        remedy = "Name the folder that 'fedpartial datalist' has written, not that of the images."
        got = f"no site file in {folder}"
        raise ConfigError(where="fedpartial check", field="SITE", got=got, expected=expected, remedy=remedy)
    return files


def _may_be_site(path: Path) -> bool:
    """Datalists and a data set's own dataset.json may lie beside site files; what cannot be read may be one."""
    try:
        keys = set(read_json(path))
    except ConfigError:
        return True
    return bool({"data_root", "labels", "pool"} & keys) and "training" not in keys


def _phantom(name: str, progress: Callable[[int, int], None]) -> SiteConfig:
    if name not in PHANTOM_SITES or name == PUBLIC:
        expected, remedy = f"one of {', '.join(one for one in PHANTOM_SITES if one != PUBLIC)}", "Correct its spelling."
        raise ConfigError(where="fedpartial check", field="phantom", got=name, expected=expected, remedy=remedy)
    site = phantom_site(name)
    with needs_space("the phantom", site.data_root):
        ensure_phantom(site.data_root.parent, name, progress=progress)
    return site
