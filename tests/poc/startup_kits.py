"""Provisions startup kits for tests: own certificates, a free port on the loopback, users of every role."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
SERVER = "localhost"
STORE = "store"
BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)


@dataclass(frozen=True)
class User:
    """An administrator's kit: name, organisation and role."""

    name: str
    org: str
    role: str


LEAD = User("lead@consortium.org", "consortium", "lead")
OTHER_LEAD = User("lead@elsewhere.org", "elsewhere", "lead")
OPERATOR = User("admin@consortium.org", "consortium", "project_admin")
SITE_ADMIN = User("it@liver.org", "liver_hospital", "org_admin")
MEMBER = User("member@consortium.org", "consortium", "member")
USERS = (LEAD, OTHER_LEAD, OPERATOR, SITE_ADMIN, MEMBER)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def provision(folder: Path, home: Path, sites: Sequence[str], users: Sequence[User] = USERS) -> Path:
    """Run ``nvflare provision`` for these sites; returns the folder with one kit per participant."""
    folder.mkdir(parents=True)
    project = folder / "project.yml"
    project.write_text(json.dumps(_project(sites, users)), encoding="utf-8")  # JSON is YAML
    _provision(folder, home)
    return folder / "made" / "fedpartial" / "prod_00"


def add_client(folder: Path, home: Path, client: Path) -> Path:
    """Run it again in the same folder for one hospital more; returns the new folder with kits."""
    _provision(folder, home, "--force", "--add-client", str(client))
    return max((folder / "made" / "fedpartial").glob("prod_*"))


def _provision(folder: Path, home: Path, *more: str) -> None:
    given = ["-p", str(folder / "project.yml"), "-w", str(folder / "made"), "-s", *more]
    run = [str(BIN / "nvflare"), "provision", *given]
    subprocess.run(run, cwd=folder, env=environment(home), check=True, capture_output=True, timeout=60)


def environment(home: Path, **more: str) -> dict[str, str]:
    """The variables a FLARE process needs: this Python first in PATH, and a home of its own."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", "FEDPARTIAL_DEVICE": "cpu", **more}


def _project(sites: Sequence[str], users: Sequence[User]) -> dict:
    participants = [{"name": SERVER, "type": "server", "org": "consortium", "fed_learn_port": free_port()}]
    participants += [{"name": user.name, "type": "admin", "org": user.org, "role": user.role} for user in users]
    participants += [{"name": site, "type": "client", "org": f"{site}_hospital"} for site in sites]
    builders = [{"path": f"nvflare.lighter.impl.{name}"} for name in BUILDERS]
    return {"api_version": 3, "name": "fedpartial", "participants": participants, "builders": builders}


def keep_flares_policy(kit: Path) -> None:
    """FLARE's own defaults, except that the server's stores lie in its kit and not in /tmp/nvflare."""
    given = json.loads((kit / "local" / "resources.json.default").read_text(encoding="utf-8"))
    components = {component["id"]: component for component in given["components"]}
    if "job_manager" in components:
        components["job_manager"]["args"]["uri_root"] = str(kit / STORE / "jobs")
        given["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(kit / STORE / "snapshots")
        (kit / "local" / "resources.json").write_text(json.dumps(given, indent=2), encoding="utf-8")


def python_without_the_package(folder: Path) -> dict[str, str]:
    """Variables for processes that find everything installed here except fedpartial: a site that did not install it."""
    venv.create(folder, symlinks=True)
    installed, here = (Path(sysconfig.get_path("purelib", vars=base)) for base in (None, {"base": str(folder)}))
    here.mkdir(parents=True, exist_ok=True)
    for path in installed.iterdir():
        if "fedpartial" not in path.name:
            (here / path.name).symlink_to(path)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
