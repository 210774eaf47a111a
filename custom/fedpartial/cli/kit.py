"""``fedpartial setup-kit``: gives a FLARE startup kit this project's policy and, at a site, its site file.

Only the kit's ``local`` folder is written; ``startup`` is signed by the provisioning and stays as it is.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedpartial.cli.console import say
from fedpartial.cli.json_file import read_json
from fedpartial.cli.policy import POLICY_FILES, as_text, is_shipped, kit_error, policy_texts, portable_site_files
from fedpartial.cli.policy_check import policy_faults
from fedpartial.cli.reply import SUCCESS, USER_ERROR, Reply
from fedpartial.errors import ConfigError
from fedpartial.server.store_place import STORE_FILE
from fedpartial.sites import site_file

KIT_VARIABLE = "{KIT}"
"""In a policy's text: the kit's own folder. FLARE's stores need absolute paths."""
KINDS = {"fed_server.json": "server", "fed_client.json": "site", "fed_admin.json": "admin"}
STORES = ("snapshot_persistor", "components")
"""What ``nvflare poc prepare`` changes in a server's resources.json."""


MODELS = {"folder": "../store/federations"}
"""A server's store.json: in the kit, as FLARE's own stores. Relative, so that it is found when the kit is moved."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A startup kit: whose it is, and where."""

    folder: Path
    kind: Literal["server", "site", "admin"]
    name: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """A file of the kit's ``local`` folder: what it holds now (None: nothing) and what it shall hold.

    ``edited``: what it holds now is neither that nor FLARE's own, so somebody would miss it.
    """

    path: Path
    old: str | None
    new: str
    edited: bool

    @property
    def state(self) -> str:
        return "written" if self.old is None else "as it was" if self.old == self.new else "replaced"

    @property
    def difference(self) -> str:
        old, new = (self.old or "").splitlines(), self.new.splitlines()
        return "\n".join(difflib.unified_diff(old, new, str(self.path), "what would be written", lineterm=""))


def read_kit(folder: Path) -> Kit:
    """The kit in ``folder``; ConfigError when it is none."""
    folder = folder.absolute()
    found = [folder / "startup" / name for name in KINDS if (folder / "startup" / name).is_file()]
    if len(found) != 1:
        expected = f"a folder with one of startup/{', startup/'.join(KINDS)}"
        raise kit_error(str(folder), "startup", "no startup kit", expected, "Name an unpacked startup kit.")
    given, kind = read_json(found[0]), KINDS[found[0].name]
    if kind == "server":
        return Kit(folder=folder, kind=kind, name="server")
    if kind == "admin":
        return Kit(folder=folder, kind=kind, name=_name(found[0], given, "admin", "username"))
    return Kit(folder=folder, kind=kind, name=_name(found[0], given, "client", "fqsn").rsplit(".", 1)[-1])


def _name(path: Path, given: dict, part: str, key: str) -> str:
    section = given.get(part)
    name = section.get(key) if isinstance(section, dict) else None
    if not isinstance(name, str) or not name:
        remedy = "Unpack the startup kit anew: the provisioning writes this file."
        raise kit_error(str(path), f"{part}.{key}", name, "a name", remedy)
    return name


def plan_changes(kit: Kit, policy: str, file: Path | None) -> list[Change]:
    """What setting the kit up would write. Nothing is written; ConfigError where something given is wrong."""
    if file is not None and kit.kind != "site":
        remedy = f"This is the kit of {kit.kind} {kit.name}; only a site has a site file."
        raise kit_error("--site-file", "path", str(file), "no site file", remedy)
    if kit.kind == "admin":
        return []
    folder = json.dumps(str(kit.folder))[1:-1]
    texts = {name: text.replace(KIT_VARIABLE, folder) for name, text in policy_texts(policy, kit.kind).items()}
    changes = [_change(kit.folder / "local" / name, text) for name, text in texts.items()]
    if kit.kind == "server":
        changes.append(_store_change(kit.folder / "local" / STORE_FILE))
    if file is not None:
        texts = portable_site_files(kit.name, file)
        changes += [_change(site_file(kit.folder / "local", site), text) for site, text in texts.items()]
    return changes


def apply_changes(changes: list[Change], *, force: bool) -> None:
    """Write the files; ConfigError, and nothing is written, when an edited one would be lost."""
    edited = [change.path for change in changes if change.edited]
    if edited and not force:
        raise kit_error(
            str(edited[0].parent),
            ", ".join(path.name for path in edited),
            "content of its own",
            "no such file, FLARE's own or what would be written",
            "Keep it, or add --force to replace it.",
        )
    for change in changes:
        change.path.parent.mkdir(parents=True, exist_ok=True)
        change.path.write_text(change.new, encoding="utf-8")


def setup_kit(folder: Path, policy: str, file: Path | None, force: bool, reply: Reply) -> int:
    """The command: plans, shows what an edited file would lose, writes, and says what comes next."""
    kit = read_kit(folder)
    changes = plan_changes(kit, policy, file)
    faults = _weaknesses(kit, policy, changes)
    for change in changes:
        if change.edited:
            say(reply.errors, change.difference)
    if faults and not force:
        reply.fail(*faults)
        say(reply.errors, "Nothing is written. Add --force where the site wants this policy all the same.")
        return USER_ERROR
    apply_changes(changes, force=force)
    for fault in faults:
        reply.warn(f"warning: {fault}")
    for line in _account(kit, policy, changes):
        reply.say(line)
    reply.add(kit=kit.folder, name=kit.name, kind=kit.kind, files={str(c.path): c.state for c in changes})
    return SUCCESS


def _weaknesses(kit: Kit, policy: str, changes: list[Change]) -> list[ConfigError]:
    """Why a site's policy of somebody's own keeps less than this project promises."""
    if kit.kind != "site" or is_shipped(policy):
        return []
    local = kit.folder / "local"
    return policy_faults(local, {c.path.name: c.new for c in changes if c.path.parent == local}, kit.name)


def _account(kit: Kit, policy: str, changes: list[Change]) -> list[str]:
    lines = [f"  {change.path.relative_to(kit.folder)}: {change.state}" for change in changes]
    if kit.kind == "admin":
        script, first = "fl_admin.sh", f"administrator {kit.name}: nothing to set up"
    else:
        script, first = "start.sh", f"{kit.kind} {kit.name}: policy {policy}"
        lines += _left(kit, changes)
    return [first, *lines, f"next: {kit.folder / 'startup' / script}"]


def _left(kit: Kit, changes: list[Change]) -> list[str]:
    """The files that the policy says nothing about; a server needs no privacy.json."""
    written = {change.path.name for change in changes}
    left = [name for name in POLICY_FILES if name not in written and (kit.kind, name) != ("server", "privacy.json")]
    return [f"  local/{name}: not in the policy, stays {_whose(kit.folder / 'local' / name)}" for name in left]


def _whose(path: Path) -> str:
    own = path.is_file() and not _as_prepared(path, path.read_text(encoding="utf-8"))
    return "as it was" if own else "FLARE's default"


def _store_change(path: Path) -> Change:
    """A place that is named already stays, with --force too: a federation must not lose its models over a policy."""
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    return Change(path=path, old=old, new=as_text(MODELS) if old is None else old, edited=False)


def _change(path: Path, new: str) -> Change:
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    edited = old is not None and old != new and not _as_prepared(path, old)
    return Change(path=path, old=old, new=new, edited=edited)


def _as_prepared(path: Path, text: str) -> bool:
    """Whether FLARE itself wrote this file: its default, with other stores."""
    default = path.with_name(f"{path.name}.default")
    try:
        given, original = json.loads(text), json.loads(default.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return {**given, **dict.fromkeys(STORES)} == {**original, **dict.fromkeys(STORES)}
