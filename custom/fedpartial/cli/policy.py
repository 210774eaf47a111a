"""The texts that ``fedpartial setup-kit`` puts into a kit: a policy's files, and a checked site file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fedpartial
from fedpartial.errors import ConfigError, renamed
from fedpartial.sites import read_site, site_file

POLICIES = Path(fedpartial.__file__).parents[2] / "provision" / "policy"
POLICY_FILES = ("resources.json", "authorization.json", "privacy.json")
REVIEWED = "reviewed"
PATH_KEYS = ("data_root", "cache_dir")


def policy_texts(policy: str, kind: str) -> dict[str, str]:
    """File name -> text of a policy for a kit of this kind ("site" or "server").

    ``policy`` is a folder, or a name under provision/policy: ``site`` and ``server`` there are "reviewed", and
    ``site-NAME`` and ``server-NAME`` hold only the files in which NAME differs from it.
    """
    known = [REVIEWED, *sorted(path.name.removeprefix("site-") for path in POLICIES.glob("site-*"))]
    if policy in known:
        folders = [POLICIES / kind, POLICIES / f"{kind}-{policy}"]
    elif any((Path(policy) / name).is_file() for name in POLICY_FILES):
        folders = [Path(policy)]
    else:
        expected = f"one of {', '.join(known)}, or a folder with {' or '.join(POLICY_FILES)}"
        raise kit_error("--policy", "name", policy, expected, "Correct the name or the path.")
    found = {name: folder / name for folder in folders for name in POLICY_FILES if (folder / name).is_file()}
    return {name: as_text(read_object(path)) for name, path in found.items()}


def portable_site_file(name: str, file: Path) -> str:
    """The checked text of a site file with its relative paths made absolute, so that it can lie in the kit."""
    if file.name != f"{name}.json":
        raise kit_error("--site-file", "name", file.name, f"{name}.json", f"This is the kit of site {name!r}.")
    given = read_object(file)
    for key in PATH_KEYS:
        value = given.get(key)
        if isinstance(value, str) and value and not value.startswith("~"):
            given[key] = str((file.absolute().parent / value).resolve())
    text = as_text(given)
    with tempfile.TemporaryDirectory() as folder:
        copy = site_file(Path(folder), name)
        copy.parent.mkdir()
        copy.write_text(text, encoding="utf-8")
        try:
            read_site(name, Path(folder))
        except ConfigError as error:
            raise renamed(error, str(copy), str(file)) from error
    return text


def as_text(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_object(path: Path) -> dict:
    """The JSON object in a file, each key once."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise kit_error(str(path), "(file)", got, "readable JSON", "Correct the file or its path.") from error
    if not isinstance(given, dict):
        raise kit_error(str(path), "(file)", type(given).__name__, "a JSON object", "Write one object in braces.")
    return given


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    given = dict(pairs)
    if len(given) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return given


def kit_error(where: str, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=where, field=field, got=got, expected=expected, remedy=remedy)
