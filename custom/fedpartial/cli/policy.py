"""The texts that ``fedpartial setup-kit`` puts into a kit: a policy's files, and a checked site file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fedpartial
from fedpartial.cli.json_file import read_json
from fedpartial.errors import ConfigError, renamed
from fedpartial.sites import read_site, site_file

POLICIES = Path(fedpartial.__file__).parents[2] / "provision" / "policy"
POLICY_FILES = ("resources.json", "authorization.json", "privacy.json")
REVIEWED = "reviewed"
PATH_KEYS = ("data_root", "cache_dir", "model_dir")


def policy_texts(policy: str, kind: str) -> dict[str, str]:
    """File name -> text of a policy for a kit of this kind ("site" or "server").

    ``policy`` is a folder, or a name under provision/policy: ``site`` and ``server`` there are "reviewed", and
    ``site-NAME`` and ``server-NAME`` hold only the files in which NAME differs from it.
    """
    if is_shipped(policy):
        folders = [POLICIES / kind, POLICIES / f"{kind}-{policy}"]
    elif any((Path(policy) / name).is_file() for name in POLICY_FILES):
        folders = [Path(policy)]
    else:
        expected = f"one of {', '.join(_shipped())}, or a folder with {' or '.join(POLICY_FILES)}"
        raise kit_error("--policy", "name", policy, expected, "Correct the name or the path.")
    found = {name: folder / name for folder in folders for name in POLICY_FILES if (folder / name).is_file()}
    return {name: as_text(read_json(path)) for name, path in found.items()}


def is_shipped(policy: str) -> bool:
    """Whether this names a policy of this project; the tests have checked those."""
    return policy in _shipped()


def _shipped() -> list[str]:
    return [REVIEWED, *sorted(path.name.removeprefix("site-") for path in POLICIES.glob("site-*"))]


def portable_site_files(name: str, file: Path) -> dict[str, str]:
    """The checked text of a site file by its site's name, and of a pool's the files of the sites in it.

    Relative paths are made absolute, so that the files can lie in the kit.
    """
    if file.name != f"{name}.json":
        raise kit_error("--site-file", "name", file.name, f"{name}.json", f"This is the kit of site {name!r}.")
    pool = read_json(file).get("pool")
    members = [f"{member}.json" for member in pool if isinstance(member, str)] if isinstance(pool, list) else []
    beside = [file.parent / member for member in members if Path(member).name == member]
    texts = {path.stem: _portable(path) for path in (file, *beside) if path.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        site_file(Path(folder), name).parent.mkdir()
        for site, text in texts.items():
            site_file(Path(folder), site).write_text(text, encoding="utf-8")
        try:
            read_site(name, Path(folder))
        except ConfigError as error:
            raise renamed(error, str(site_file(Path(folder), name).parent), str(file.parent)) from error
    return texts


def _portable(file: Path) -> str:
    given = read_json(file)
    for key in PATH_KEYS:
        value = given.get(key)
        if isinstance(value, str) and value and not value.startswith("~"):
            given[key] = str((file.absolute().parent / value).resolve())
    return as_text(given)


def as_text(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def kit_error(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
