"""The picture sheets of ``fedpartial check``: where they may be written, and drawing them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedpartial.cli.check_cases import Examined, sheet_classes
from fedpartial.cli.reply import Reply
from fedpartial.data.site_survey import SiteSurvey
from fedpartial.errors import ConfigError
from fedpartial.evaluation.case_sheet import case_sheet
from fedpartial.evaluation.formats import plural
from fedpartial.sites import SiteConfig

SHEET = "{site}_check.png"


def sheet_paths(given: Path | None, sites: Sequence[SiteConfig], reply: Reply) -> dict[str, Path]:
    """Where every site's sheet goes; no site of which no such place is known.

    ``given``: a PNG file, with several sites a folder; None is beside the site file, but never among the data.
    """
    if given is None:
        paths = {site.name: _beside(site) for site in sites}
        homeless = [name for name, path in paths.items() if not _is_free(path, sites)]
        if homeless:
            reply.warn(f"no sheet of {', '.join(homeless)}: nothing is written among data; name a place, --sheet")
        return {name: path for name, path in paths.items() if name not in homeless}
    if given.suffix == ".png" and len(sites) > 1:
        expected, remedy = f"a folder, for {len(sites)} sheets", "Leave out the .png."
        raise wrong_option("--sheet", given, expected, remedy)
    if given.suffix not in ("", ".png"):
        raise wrong_option("--sheet", given, "a file name with .png, or a folder", "Correct the ending.")
    single = given.suffix == ".png"
    return {s.name: given if single else given / SHEET.format(site=s.name) for s in sites}


def _beside(site: SiteConfig) -> Path:
    folder = Path(site.where).parent if site.source == "site file" else Path.cwd()
    return folder / SHEET.format(site=site.name)


def _is_free(path: Path, sites: Sequence[SiteConfig]) -> bool:
    """Whether a picture may be put there unasked: not among anybody's images, nor where writing is not allowed."""
    among_data = any(path.resolve().is_relative_to(site.data_root.resolve()) for site in sites)
    return not among_data and os.access(path.parent, os.W_OK)


def draw_sheets(
    surveys: Sequence[SiteSurvey], sheets: Mapping[str, Path], drawn: Mapping[str, Sequence[Examined]], reply: Reply
) -> dict[str, Path]:
    """A sheet for every site that has a place for it and a case that can be drawn."""
    sites = {survey.site.name: survey.site for survey in surveys}
    wanted = [name for name in sites if name in sheets and drawn[name]]
    return {name: _draw(sites[name], sheets[name], drawn[name], reply) for name in wanted}


def _draw(site: SiteConfig, path: Path, drawn: Sequence[Examined], reply: Reply) -> Path:
    panels = [examined.panel for examined in drawn]
    title = f"site {site.name}: {plural(len(panels), 'case')}, the largest structure of each"
    path.write_bytes(case_sheet(panels, sheet_classes(site), title=title))
    reply.say(f"sheet: {path}")
    return path


def wrong_option(option: str, got: object, expected: str, remedy: str) -> ConfigError:
    """A value of the command line that cannot be used."""
    return ConfigError(where="fedpartial check", field=option, got=str(got), expected=expected, remedy=remedy)
