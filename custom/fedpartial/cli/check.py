"""``fedpartial check``: one pass over a site's data set, before anything is trained on it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.check_cases import Examined, Task, default_workers, examine_all
from fedpartial.cli.check_sheets import draw_sheets, sheet_paths, wrong_option
from fedpartial.cli.check_sites import cases_of, choose_preset, open_target
from fedpartial.cli.check_tables import content, show_site, write_csv
from fedpartial.cli.reply import SUCCESS, USER_ERROR, Reply
from fedpartial.data.site_survey import SiteSurvey, repeated_images
from fedpartial.errors import ConfigError
from fedpartial.evaluation.formats import plural, size
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. sheet: a PNG file, with several sites a folder; None is beside the site file."""

    target: Path
    preset: str | None = None
    sheet: Path | None = None
    cases: int = 12
    csv: Path | None = None
    workers: int | None = None
    seed: int = 0
    force: bool = False


def check(request: Request, reply: Reply) -> int:
    """Look at every case once and say what was found. Returns the exit code; raises ConfigError for the request."""
    preset = choose_preset(request.preset)
    with _progress(reply, "phantom case") as written:
        sites, wrong = open_target(request.target, preset, lambda done, total: written("phantom case", total))
    sheets = sheet_paths(request.sheet, sites, reply) if request.cases else {}
    _check_free(request, sheets.values())
    tasks, unlisted = _tasks(request, sites, preset)
    wrong += unlisted
    surveys, drawn = _survey(tasks, request.workers or default_workers(), reply)
    for survey in surveys:
        show_site(reply, survey, preset.name)
        _say_space(survey, reply)
    reply.add(preset=preset.name, sites=[content(survey) for survey in surveys])
    if request.csv:
        write_csv(request.csv, surveys)
        reply.say(f"every fault and warning: {request.csv}")
    reply.add(sheets=draw_sheets(surveys, sheets, drawn, reply))
    return _end(surveys, wrong, request, reply)


def _tasks(
    request: Request, sites: Sequence[SiteConfig], preset: Preset
) -> tuple[dict[str, list[Task]], list[ConfigError]]:
    """The cases of every site whose lists can be read, with a random few to draw; and what is wrong with the others."""
    tasks: dict[str, list[Task]] = {}
    wrong: list[ConfigError] = []
    for site in sites:
        try:
            cases = cases_of(site, preset)
        except ConfigError as error:
            wrong.append(error)
            continue
        labelled = [case for case in cases if case.label is not None] or cases
        shown = random.Random(request.seed).sample(labelled, min(request.cases, len(labelled)))
        tasks[site.name] = [Task(site=site, case=case, preset=preset, drawn=case in shown) for case in cases]
    return tasks, wrong


def _survey(
    tasks: dict[str, list[Task]], workers: int, reply: Reply
) -> tuple[list[SiteSurvey], dict[str, list[Examined]]]:
    every = [task for of_site in tasks.values() for task in of_site]
    with _progress(reply, "cases", len(every)) as advance:
        found = examine_all(every, workers, lambda name: advance(name, len(every)))
    faults, remarks = repeated_images([examined.survey for examined in found])
    surveys, drawn = [], {}
    for name, of_site in tasks.items():
        own = [examined for examined in found if examined.survey.site == name]
        cases = tuple(examined.survey for examined in own)
        again = tuple(fault for site, fault in faults if site == name)
        mild = tuple(remark for site, remark in remarks if site == name)
        surveys.append(SiteSurvey(site=of_site[0].site, cases=cases, repeats=again, repeats_of_split=mild))
        drawn[name] = [examined for examined in own if examined.panel is not None]
    return surveys, drawn


@contextmanager
def _progress(reply: Reply, what: str, total: int = 0) -> Iterator[Callable[[str, int], None]]:
    """One bar, where there is anything to count; advance(name, number in all) after every step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=reply.console) as bar:
        task = bar.add_task(what, total=total or None, visible=total > 0)
        yield lambda name, total: bar.update(task, advance=1, total=total, description=name, visible=True)


def _check_free(request: Request, sheets: Iterable[Path]) -> None:
    """Named files are new ones, unless --force says otherwise."""
    if request.csv and request.csv.suffix != ".csv":
        raise wrong_option("--csv", request.csv, "a file name with .csv", "Correct the ending.")
    named = [("--csv", request.csv)] if request.csv else []
    named += [("--sheet", path) for path in sheets] if request.sheet else []
    for option, path in named:
        if path.exists() and not request.force:
            raise wrong_option(option, path, "a new file", "Choose another name, or give --force to replace it.")
    for _, path in named:
        path.parent.mkdir(parents=True, exist_ok=True)  # where that fails, no file was read for nothing


def _say_space(survey: SiteSurvey, reply: Reply) -> None:
    folder = survey.site.cache_dir
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if survey.stored_bytes > free:
        reply.warn(f"only {size(free)} are free in {folder}; $FEDPARTIAL_CACHE or cache_dir names another place")


def _end(surveys: Sequence[SiteSurvey], wrong: Sequence[ConfigError], request: Request, reply: Reply) -> int:
    """The last lines, and the exit code: warnings are no faults."""
    reply.fail(*wrong)
    for survey in surveys:
        if survey.faults:
            files = len({fault.file for fault in survey.faults})
            counted = f"{plural(len(survey.faults), 'fault')} in {plural(files, 'file')}"
            reply.fail(f"site {survey.site.name}: {counted}{'' if request.csv else '; --csv FILE lists all of them'}")
    if wrong or any(survey.faults for survey in surveys):
        return USER_ERROR
    warned = any(survey.remarks for survey in surveys)
    reply.say("no faults; read the warnings" if warned else "no faults", "green")
    return SUCCESS
