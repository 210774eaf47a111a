"""Site files before a run: read, checked as far as that is cheap, and copied for FLARE with absolute paths.

Whether images and labels can be read is found by the sites themselves when they prepare their cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpartial.data.datalist import SPLITS, Case, read_datalist
from fedpartial.data.integrity import labelled_mask
from fedpartial.errors import ConfigError, renamed
from fedpartial.evaluation.record import EXTERNAL
from fedpartial.labels import LabelSpace
from fedpartial.sites import SiteConfig, SitePool, read_site, site_file
from fedpartial.training.plan import Plan

MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class SiteFolder:
    """A folder of site files: as FLARE would have it (sites/ in config_dir), and as the user named it."""

    config_dir: Path
    given: Path | None

    @property
    def shown(self) -> str:
        """Where the site files lie, by the name that the user knows."""
        linked = self.given is not None and self.given != self.config_dir
        return str(self.given if linked else self.config_dir / "sites")

    def as_given(self, path: str) -> str:
        return path.replace(str(self.config_dir / "sites"), self.shown)

    def fault(self, site: str, error: ConfigError) -> ConfigError:
        """The error with the site's name and with paths as the user knows them."""
        error = renamed(error, str(self.config_dir / "sites"), self.shown)
        return ConfigError(**{**vars(error), "where": f"site {site}: {error.where}"})


def open_site_folder(given: Path | None, folder: Path) -> SiteFolder:
    """The folder of --site-config, with <site>.json or sites/<site>.json; ``folder`` is for temporary files."""
    if given is None:
        return SiteFolder(config_dir=folder / "no-site-files", given=None)
    given = given.absolute()
    if not given.is_dir():
        raise ConfigError(
            where="--site-config",
            field="folder",
            got=str(given),
            expected="a folder with <site>.json files, or with sites/<site>.json",
            remedy="Correct the path.",
        )
    if (given / "sites").is_dir():
        return SiteFolder(config_dir=given, given=given)
    (folder / "site-config").mkdir()
    (folder / "site-config" / "sites").symlink_to(given, target_is_directory=True)
    return SiteFolder(config_dir=folder / "site-config", given=given)


def check_sites(
    names: Sequence[str], files: SiteFolder, plan: Plan | None, device: str | None
) -> tuple[list[SiteConfig | SitePool], list[ConfigError]]:
    """Every site (and the external set, where it has a file) and everything wrong with any of them."""
    space = plan.config.label_space if plan else None
    sites, faults = [], []
    for name in (*names, *([EXTERNAL] if site_file(files.config_dir, EXTERNAL).exists() else [])):
        try:
            sites.append(read_site(name, files.config_dir))
            found = list(_faults(sites[-1], space, device))
        except ConfigError as error:
            found = [error]
        faults += [files.fault(name, error) for error in found]
    return sites, faults


def stage_site_files(sites: Sequence[SiteConfig | SitePool], files: SiteFolder, local: Path) -> None:
    """Copy the site files that are used to ``local``/sites, with absolute paths: there they lie elsewhere."""
    used = {one.name: one for site in sites for one in (*site.members, site) if one.source == "site file"}
    for site in used.values():
        given = json.loads(site_file(files.config_dir, site.name).read_text(encoding="utf-8-sig"))
        if "data_root" in given:
            given["data_root"] = files.as_given(str(site.data_root))
        for field in ("cache_dir", "model_dir"):
            if field in given:
                given[field] = files.as_given(str(getattr(site, field)))
        target = site_file(local, site.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(given, indent=2) + "\n", encoding="utf-8")


def unused_site_files(sites: Sequence[SiteConfig | SitePool], files: SiteFolder) -> list[str]:
    """Files that no site of the run reads; one of them may be a misspelt name."""
    used = {one.name for site in sites for one in (site, *site.members)}
    return sorted(path.name for path in (files.config_dir / "sites").glob("*.json") if path.stem not in used)


def _faults(site: SiteConfig | SitePool, space: LabelSpace | None, device: str | None) -> Iterator[ConfigError]:
    """Faults of a site whose file could be read; without a label space only those that do not need it."""
    yield from _raised(lambda: check_device(device or site.device, "--device" if device else site.where))
    for member in site.members:
        yield from _member_faults(member, space)


def _member_faults(site: SiteConfig, space: LabelSpace | None) -> Iterator[ConfigError]:
    if space is not None:
        yield from _raised(lambda: space.table(site.labels, where=site.where))
    if site.source == "site file":
        yield from _raised(lambda: _check_datalist(site, space))
        yield from _missing_files(site)


def check_device(name: str, where: str) -> None:
    """Whether there is such a device, without touching it: a GPU's memory belongs to the sites."""
    import torch

    try:
        device = None if name == "auto" else torch.device(name)
        missing = device is not None and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    except RuntimeError:
        missing = True
    if missing:
        raise ConfigError(
            where=where,
            field="device",
            got=name,
            expected="a torch device that this machine has",
            remedy="Use 'auto', which takes a GPU when there is one.",
        )


def _raised(check: Callable[[], object]) -> list[ConfigError]:
    try:
        check()
    except ConfigError as error:
        return [error]
    return []


def _check_datalist(site: SiteConfig, space: LabelSpace | None) -> None:
    by_split = read_datalist(site)
    if site.name != EXTERNAL and not by_split["training"]:
        remedy = f"List the annotated training cases. A set for final scores alone is site {EXTERNAL}."
        raise _datalist_error(site, "training", [], "at least one case", remedy)
    for case in _cases(by_split):
        if space is not None and case.labels is not None:
            labelled_mask(case, site, space)


def _missing_files(site: SiteConfig) -> Iterator[ConfigError]:
    try:
        cases = _cases(read_datalist(site))
    except ConfigError:
        return
    files = [(f"{case.field}.image", case.image) for case in cases]
    files += [(f"{case.field}.label", case.label) for case in cases if case.label is not None]
    missing = [(field, path) for field, path in files if not path.is_file()]
    for field, path in missing[:MAX_SHOWN]:
        remedy = "There is no such file: correct the datalist or restore it."
        yield _datalist_error(site, field, str(path), "an existing NIfTI file", remedy)
    if len(missing) > MAX_SHOWN:
        got = f"{len(missing) - MAX_SHOWN} more files that do not exist"
        yield _datalist_error(site, "(files)", got, "existing NIfTI files", "Is data_root in the site file right?")


def _cases(by_split: dict[str, list[Case]]) -> list[Case]:
    return [case for split in SPLITS for case in by_split[split]]


def _datalist_error(site: SiteConfig, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(site.datalist), field=field, got=got, expected=expected, remedy=remedy)
