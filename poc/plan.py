"""Plans a rehearsal for run.sh: a project file with exactly the job's sites, and what the shell has to know of it.

Prints shell assignments. Exit code 2, with one message on stderr, where something given is wrong.
"""

from __future__ import annotations

import argparse
import shlex
import socket
import sys
from pathlib import Path

import yaml

from fedpartial.cli.job_folder import ALL_SITES, Job, deploy_map_error, find_job, read_job
from fedpartial.errors import ConfigError
from fedpartial.sites import PUBLIC, SiteConfig, default_cache_dir, read_public, site_file

HOST = "localhost"
BYOC, REVIEWED = "byoc", "reviewed"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--site-config", type=Path)
    given = parser.parse_args()
    try:
        job = read_job(find_job(given.job))
        project = project_for(job, yaml.safe_load(given.base.read_text(encoding="utf-8")), chosen_port(given.port))
        files = staged(job, given.site_config, given.workspace)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target = given.workspace / "project.yml"
    target.write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
    for name, value in described(job, project, files).items():
        print(f"{name}={value}")
    return 0


def described(job: Job, project: dict, files: str) -> dict[str, str]:
    """The shell's variables."""
    server = _named(project, "server")
    server_files: list[str] = []
    values = {
        "job": str(job.folder),
        "policy": policy_for(job),
        "name": project["name"],
        "port": str(server["fed_learn_port"]),
        "server": server["name"],
        "lead": _named(project, "admin", role="lead")["name"],
        "site_files": files,
        "FEDPARTIAL_CACHE": str(default_cache_dir()),
    }
    if files:
        from fedpartial.evaluation.record import EXTERNAL  # imports SciPy, and most rehearsals do without

        server_files = [EXTERNAL, PUBLIC]
    lists = {"sites": job.sites, "server_files": server_files}
    return {name: shlex.quote(value) for name, value in values.items()} | {
        name: f"({shlex.join(value)})" for name, value in lists.items()
    }


def policy_for(job: Job) -> str:
    """FLARE asks for the right to bring own code as soon as an app has a custom folder, whatever is in it."""
    return BYOC if any((job.folder / app / "custom").is_dir() for app in job.apps) else REVIEWED


def project_for(job: Job, base: dict, port: int) -> dict:
    """The base project on this port of this machine, with the job's sites instead of its own."""
    if ALL_SITES in job.sites or not job.sites:
        raise deploy_map_error(job.folder, job.meta["deploy_map"], "sites by name", "Name the sites in the job.")
    kept = [person for person in base["participants"] if person["type"] == "admin"]
    known = {person["name"]: person for person in base["participants"] if person["type"] == "client"}
    server = {**_named(base, "server"), "name": HOST, "fed_learn_port": port, "admin_port": port}
    clients = [known.get(site, {"name": site, "type": "client", "org": "hospital"}) for site in job.sites]
    return {**base, "participants": [server, *kept, *clients]}


def chosen_port(given: str) -> int:
    """A port of the loopback that nobody listens on; 0 lets the system choose."""
    if not given.isascii() or not given.isdigit() or not int(given) < 2**16:
        raise _port_error(given, "a number from 1 to 65535, or 0 for any free port", "Correct the option.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(given)))
        except OSError as error:
            remedy = "Choose another one, or leave --port out: then any free port is taken."
            raise _port_error(given, "a port that is free and open to you", remedy) from error
        return probe.getsockname()[1]


def staged(job: Job, folder: Path | None, workspace: Path) -> str:
    """A folder with checked copies of the site files whose paths hold everywhere; empty where none are given.

    The sites run with another HOME, so "~" is replaced too.
    """
    if folder is None:
        return ""
    from fedpartial.cli.site_check import check_sites, open_site_folder, stage_site_files, unused_site_files

    (workspace / "links").mkdir()
    files = open_site_folder(folder, workspace / "links")
    sites, faults = check_sites(job.sites, files, None, None)
    if faults:
        raise faults[0]
    sites += public_images(job, files.config_dir)
    for name in unused_site_files(sites, files):
        print(f"not used: {name} (no site of this job is called so)", file=sys.stderr)
    stage_site_files(sites, files, workspace / "local")
    return str(workspace / "local" / "sites")


def public_images(job: Job, config_dir: Path) -> list[SiteConfig]:
    """The server's own images, where the job distils and they have a file."""
    if not job.server.get("distil_steps") or not site_file(config_dir, PUBLIC).exists():
        return []
    from fedpartial.presets import get_preset

    return [read_public(config_dir, get_preset(job.server["preset"]).label_space.classes, phantom=False)]


def _named(project: dict, kind: str, role: str | None = None) -> dict:
    for person in project["participants"]:
        if person["type"] == kind and person.get("role") == role:
            return person
    expected = f"a participant of type {kind}" + (f" and role {role}" if role else "")
    raise ConfigError(
        where="project file", field="participants", got="none", expected=expected, remedy="Add one to the project."
    )


def _port_error(given: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--port", field="port", got=given, expected=expected, remedy=remedy)


if __name__ == "__main__":
    sys.exit(main())
