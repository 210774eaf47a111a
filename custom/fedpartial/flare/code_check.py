"""Server and sites run the same code, or nothing is trained.

The hash of the server's package travels with every task, and a site compares it before it looks at anything
else. A bundle also says in its manifest which code it was made for: the server and every site compare that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nvflare.apis.shareable import Shareable

from fedpartial import __version__
from fedpartial.errors import ConfigError, check_keys
from fedpartial.package_hash import PACKAGE, SHORT, hash_of, package_files, package_hash

HEADER = "fedpartial_code"
MANIFEST = "fedpartial_manifest.json"
SCHEMA_VERSION = 1
CODE_KEYS = ("package_hash", "version")
MANIFEST_KEYS = ("schema_version", *CODE_KEYS, "files", "source_commit", "created", "options")
SAME_VERSION = (
    "Install the same version of fedpartial here. If the job ships its code, uninstall the installed fedpartial: "
    "FLARE puts it before the shipped one."
)


class CodeMismatch(ConfigError):
    """Other code than the run needs. Only ``where`` may hold a path."""

    @property
    def public(self) -> str:
        """What may leave a site: hashes and versions."""
        return f"{self.field}: got {self.got}; expected {self.expected}. {self.remedy}"


def own_code() -> dict[str, str]:
    """Hash and version of the package that this process runs."""
    return {"package_hash": package_hash(), "version": __version__}


def attach_code(task: Shareable) -> None:
    """Put the server's code into a task, apart from the plan: plans of two versions may have different keys."""
    task.set_header(HEADER, own_code())


def check_task_code(task: Shareable, site: str, app_root: Path) -> None:
    """Compare this site's code with the server's and with the bundle's manifest; raises CodeMismatch."""
    given = task.get_header(HEADER)
    if not _is_code(given):
        raise _mismatch(
            got=f"a task that does not say the server's code, at site {site} with {_named(own_code())}",
            expected="the hash of the server's package in every task",
            remedy="Install this site's version of fedpartial at the server.",
        )
    if given["package_hash"] != package_hash():
        raise _mismatch(
            got=f"{_named(own_code())}, site {site}", expected=f"{_named(given)}, as the server", where=_where(app_root)
        )
    check_manifest(app_root, f"site {site}")


def check_manifest(app_root: Path, place: str) -> None:
    """Compare the code at ``place`` (the server or a site) with the job's manifest, if it has one; CodeMismatch."""
    manifest = read_manifest(app_root, place)
    if manifest is not None and manifest["package_hash"] != package_hash():
        got, expected = f"{_named(own_code())}, {place}", f"{_named(manifest)}, as the job's {MANIFEST}"
        raise _mismatch(got=got, expected=expected, where=_where(app_root))


def read_manifest(app_root: Path, place: str) -> dict | None:
    """The manifest of the job whose app lies in ``app_root``; None without one, CodeMismatch when it is damaged."""
    path = app_root / "config" / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        check_keys(manifest, MANIFEST_KEYS, MANIFEST_KEYS, where=MANIFEST)
    except (OSError, ValueError) as error:  # a ConfigError is a ValueError
        raise _damaged(place, "unreadable") from error
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise _damaged(place, "of another schema version")
    if not _is_code(manifest) or not _are_files(manifest["files"]):
        raise _damaged(place, "damaged")
    if hash_of(manifest["files"]) != manifest["package_hash"]:
        raise _damaged(place, "damaged: its hash is not that of its files")
    return manifest


def changed_files(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names of files that are missing, new or different."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def _mismatch(
    *, got: str, expected: str, remedy: str = SAME_VERSION, where: str = f"package {PACKAGE}"
) -> CodeMismatch:
    return CodeMismatch(where=where, field="code", got=got, expected=expected, remedy=remedy)


def _damaged(place: str, how: str) -> CodeMismatch:
    return _mismatch(
        got=f"a {MANIFEST} that is {how}, {place}",
        expected=f"the {MANIFEST} that 'fedpartial bundle' wrote (schema version {SCHEMA_VERSION})",
        remedy="Make the bundle again and submit that.",
        where=MANIFEST,
    )


def _where(app_root: Path) -> str:
    """Which package was imported here and, where a manifest tells, its files that differ; stays at this place."""
    try:
        manifest = read_manifest(app_root, "here")
    except CodeMismatch:
        manifest = None
    changed = changed_files(manifest["files"], package_files()) if manifest else []
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"package {PACKAGE}" + (f" (differs in {', '.join(changed[:3])}{more})" if changed else "")


def _named(code: Mapping[str, str]) -> str:
    return f"{code['package_hash'][:SHORT]} (fedpartial {code['version']})"


def _is_code(given: object) -> bool:
    return isinstance(given, dict) and all(isinstance(given.get(key), str) for key in CODE_KEYS)


def _are_files(given: object) -> bool:
    return isinstance(given, dict) and all(isinstance(value, str) for value in given.values())
