"""A job folder: found, read, and written as a changed copy. The original is never touched."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import fedpartial
from fedpartial.cli.json_file import read_json
from fedpartial.errors import ConfigError

META = "meta.json"
SERVER_CONFIG = "config_fed_server.json"
CLIENT_CONFIG = "config_fed_client.json"
SERVER = "server"
ALL_SITES = "@ALL"
NOT_COPIED = ("__pycache__", ".__nvfl_*")
LEFT_OUT = shutil.ignore_patterns(*NOT_COPIED)
"""FLARE signs the folder of a submitted job; a changed copy must not carry the signature."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job folder as read: who runs which app, and what the server's configuration says."""

    folder: Path
    meta: dict
    apps: dict[str, tuple[str, ...]]
    server: dict

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(p for participants in self.apps.values() for p in participants if p != SERVER)

    @property
    def server_config(self) -> Path:
        return self.config_path(SERVER, SERVER_CONFIG)

    def app_of(self, participant: str) -> str:
        return next(app for app, participants in self.apps.items() if participant in participants)

    def config_path(self, participant: str, file: str) -> Path:
        return self.folder / self.app_of(participant) / "config" / file


def find_job(given: str) -> Path:
    """The folder that was named: a path, or a folder under jobs/ here or beside the package's source."""
    places = (Path(given), Path("jobs") / given, Path(fedpartial.__file__).parents[2] / "jobs" / given)
    for place in places:
        if (place / META).is_file():
            return place.absolute()
    known = sorted({meta.parent.name for place in places[1:] for meta in place.parent.glob(f"*/{META}")})
    raise ConfigError(
        where="JOB",
        field="folder",
        got=given,
        expected=f"a folder with {META}" + (f", or one of {', '.join(known)}" if known else ""),
        remedy="Name a job folder, or the name of one under jobs/.",
    )


def read_job(folder: Path) -> Job:
    """The job in ``folder``; ConfigError where a file is missing or unreadable."""
    meta = read_json(folder / META)
    job = Job(folder=folder, meta=meta, apps=_apps(folder, meta), server={})
    if not any(SERVER in participants for participants in job.apps.values()):
        raise deploy_map_error(folder, meta["deploy_map"], "an app for 'server'")
    for site in job.sites:
        read_json(job.config_path(site, CLIENT_CONFIG))
    return replace(job, server=read_json(job.server_config))


def write_job(job: Job, target: Path) -> Job:
    """Copy the job folder to ``target``, with the values and sites of ``job``."""
    shutil.copytree(job.folder, target, ignore=LEFT_OUT)
    copy = replace(job, folder=target)
    write_values(copy)
    return copy


def write_values(job: Job) -> None:
    """Write meta.json and the server's configuration as ``job`` has them."""
    for path, content in ((job.folder / META, job.meta), (job.server_config, job.server)):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def new_folder(out: Path, *, remedy: str) -> Path:
    """``out`` as an absolute path; ConfigError unless it is new or empty."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        expected = "a new or an empty folder"
        raise ConfigError(where="--out", field="folder", got=str(out), expected=expected, remedy=remedy)
    return out


def move_into_place(folder: Path, out: Path) -> None:
    """Copy beside ``out`` first: a rename is one step, within one file system only."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            whole = Path(shutil.copytree(folder, Path(beside) / out.name, ignore=LEFT_OUT))
            whole.rename(out)
    except OSError as error:
        expected, remedy = "a folder that can be written", "Name another folder."
        raise ConfigError(where="--out", field="folder", got=str(error), expected=expected, remedy=remedy) from error


def deploy_map_error(folder: Path, got: object, expected: str, remedy: str = "Correct the deploy_map.") -> ConfigError:
    return ConfigError(where=str(folder / META), field="deploy_map", got=got, expected=expected, remedy=remedy)


def _apps(folder: Path, meta: dict) -> dict[str, tuple[str, ...]]:
    given = meta.get("deploy_map")
    if not isinstance(given, dict) or not given:
        raise deploy_map_error(folder, given, 'an object such as {"app": ["server", "liver", "spleen"]}')
    for participants in given.values():
        if not isinstance(participants, list) or not all(isinstance(name, str) for name in participants):
            raise deploy_map_error(folder, participants, "a list of names per app")
    return {app: _participants(names) for app, names in given.items()}


def _participants(names: list[str]) -> tuple[str, ...]:
    """FLARE's '@ALL' stands for the server and every site that happens to be there."""
    return (SERVER, ALL_SITES) if [name.upper() for name in names] == [ALL_SITES] else tuple(names)
