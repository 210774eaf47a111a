"""The manifest of a model store: what it holds, as frozen values and as JSON.

The contract of the JSON form is store_manifest.schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

from jsonschema import Draft202012Validator

from fedpartial.errors import ConfigError, unique_keys

FORMAT = 1
GLOBAL = "global"
"""The name of the global models; no site may be called so."""
MANIFEST = "manifest.json"
COPY = "manifest.json.copy"
CHECKSUM_LENGTH = 12
"""Of a checksum's start, where it stands in a name."""
PHANTOM = "phantom"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of sites and federations become names of folders."""
GO_BACK = f"Nothing was changed. Copy {COPY} over {MANIFEST}, or bring the folder back from a backup."


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One version of a site's model, or of the global one (``site`` is then "global").

    architecture: {"name": class of the preset's network, "arguments": its fields}. checksum: SHA-256 of the file.
    time: UTC, ISO 8601. job: what made it. teachers: of a global model, site -> version it was distilled from. start:
    of a global model, the version of the global one that its training began with; None for random weights. source: of a
    site's model, "phantom" or "site file"; None where an earlier fedpartial has stored it (taken for a site file), and
    of a global model.
    """

    site: str
    version: int
    classes: tuple[str, ...]
    preset: str
    architecture: dict
    checksum: str
    num_bytes: int
    time: str
    job: str
    teachers: dict[str, int] = field(default_factory=dict)
    start: int | None = None
    source: str | None = None

    @property
    def key(self) -> str:
        """Names the version and its content, for what is computed from it."""
        return f"{self.site}-v{self.version}-{self.checksum[:CHECKSUM_LENGTH]}"

    @property
    def file_name(self) -> str:
        return f"v{self.version:05d}-{self.checksum[:CHECKSUM_LENGTH]}.safetensors"

    def holds_the_same(self, other: Entry) -> bool:
        """Whether both are one model, whenever and by whatever job it came."""
        same = ("site", "classes", "preset", "architecture", "checksum", "teachers", "start")
        return all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A site's withdrawal: its versions are deleted; ``distilled_into`` are global versions that learnt from it."""

    site: str
    time: str
    versions: tuple[int, ...]
    distilled_into: tuple[int, ...]
    globals_deleted: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """All versions of one model, in their order; ``active`` is None where none is left.

    rolled_back: versions that somebody has rolled back from; a site that sends one again does not bring it back.
    """

    active: int | None
    last_version: int
    entries: tuple[Entry, ...]
    rolled_back: tuple[int, ...] = ()

    def find(self, version: int | None) -> Entry | None:
        return next((entry for entry in self.entries if entry.version == version), None)

    def without(self, versions: Iterable[int]) -> Record:
        """Delete versions; where the active one is among them, the latest that is left takes its place."""
        gone = set(versions)
        rolled_back = tuple(version for version in self.rolled_back if version not in gone)
        left = tuple(entry for entry in self.entries if entry.version not in gone)
        latest = left[-1].version if left else None
        active = latest if self.active in gone else self.active
        return replace(self, entries=left, active=active, rolled_back=rolled_back)

    def rolled_back_to(self, version: int) -> Record:
        """Another version in use; the one before it is not wanted, this one is."""
        unwanted = {*self.rolled_back, *([self.active] if self.active else [])} - {version}
        return replace(self, active=version, rolled_back=tuple(sorted(unwanted)))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Records by name of the site or "global", and the withdrawals, oldest first."""

    records: Mapping[str, Record] = field(default_factory=dict)
    removals: tuple[Removal, ...] = ()

    def entries(self) -> Iterator[Entry]:
        for record in self.records.values():
            yield from record.entries

    def active(self, name: str) -> Entry | None:
        record = self.records.get(name)
        return record.find(record.active) if record else None

    def next_version(self, name: str) -> int:
        """Numbers are never given twice, also not after a withdrawal."""
        return self.records[name].last_version + 1 if name in self.records else 1

    def distilled_from(self, site: str) -> tuple[int, ...]:
        """Versions of the global model that learnt from any version of a site's model, also by way of their start."""
        found = self.records[GLOBAL].entries if GLOBAL in self.records else ()
        learnt = ((entry.version, self.lineage(entry.teachers, entry.start)) for entry in found)
        return tuple(version for version, origins in learnt if any(name == site for name, _ in origins))

    def lineage(self, teachers: Mapping[str, int], start: int | None) -> set[tuple[str, int]]:
        """(site, version) of all that a global model of these teachers and this start has learnt from.

        A start that is not there any more stands for itself, as ("global", version).
        """
        origins = set(teachers.items())
        while start is not None:
            before = self.records[GLOBAL].find(start) if GLOBAL in self.records else None
            if before is None:
                return origins | {(GLOBAL, start)}
            origins, start = origins | set(before.teachers.items()), before.start
        return origins

    def withdrawn(self, teachers: Mapping[str, int], start: int | None) -> list[tuple[str, int]]:
        """What of a lineage is in the store no more: somebody has withdrawn it."""
        origins = sorted(self.lineage(teachers, start))
        return [(name, v) for name, v in origins if name not in self.records or not self.records[name].find(v)]

    def with_record(self, name: str, record: Record) -> Manifest:
        return replace(self, records={**self.records, name: record})

    def with_entry(self, entry: Entry) -> Manifest:
        """A new version, active at once; the versions before it stay."""
        before = self.records.get(entry.site, Record(active=None, last_version=0, entries=()))
        entries = (*before.entries, entry)
        record = replace(before, active=entry.version, last_version=entry.version, entries=entries)
        return self.with_record(entry.site, record)

    def with_removal(self, removal: Removal) -> Manifest:
        changed = self.with_record(removal.site, self.records[removal.site].without(removal.versions))
        if removal.globals_deleted:
            changed = changed.with_record(GLOBAL, changed.records[GLOBAL].without(removal.globals_deleted))
        return replace(changed, removals=(*self.removals, removal))

    def to_json(self) -> bytes:
        content = {
            "format": FORMAT,
            "models": {name: asdict(record) for name, record in sorted(self.records.items())},
            "removals": [asdict(removal) for removal in self.removals],
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; ConfigError for a damaged one, and for one of a newer format."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise _damaged(path, "(file)", str(error)) from error
    _check_format(path, given)
    if fault := next(_faults(given), None):
        raise _damaged(path, *fault)
    return Manifest(
        records={name: _record(record) for name, record in given["models"].items()},
        removals=tuple(Removal(**_tuples(removal)) for removal in given["removals"]),
    )


def check_name(name: object, where: str) -> str:
    """Raise ConfigError for what cannot be the name of a site or a federation, and so of a folder."""
    if isinstance(name, str) and NAME.fullmatch(name) and name != GLOBAL:
        return name
    raise ConfigError(
        where=where,
        field="name",
        got=name,
        expected=f"letters, digits, '_', '-', '.' (not first), at most 64 of them, and not {GLOBAL!r}",
        remedy="The name becomes that of a folder: choose another.",
    )


def _check_format(path: Path, given: object) -> None:
    found = given.get("format") if isinstance(given, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ConfigError(
            where=str(path),
            field="format",
            got=found,
            expected=f"at most {FORMAT}",
            remedy="A newer fedpartial has written it: use that version here. Nothing was changed.",
        )


def _faults(given: object) -> Iterator[tuple[str, str]]:
    """Where a manifest leaves the schema, then what the schema cannot say."""
    for error in _validator().iter_errors(given):
        yield "/".join(map(str, error.absolute_path)) or "(file)", error.message
        return
    for name, record in given["models"].items():
        versions = [entry["version"] for entry in record["entries"]]
        if any(entry["site"] != name for entry in record["entries"]):
            yield f"models/{name}", "an entry of another model"
        if versions != sorted(set(versions)) or versions[-1:] > [record["last_version"]]:
            yield f"models/{name}", f"versions {versions}, the last one {record['last_version']}"
        if any(
            entry.get("start") and (name != GLOBAL or entry["start"] >= entry["version"]) for entry in record["entries"]
        ):
            yield f"models/{name}", "a model that starts from itself or from a later one"
        if (record["active"] is not None or versions) and record["active"] not in versions:
            yield f"models/{name}", f"active version {record['active']} of {versions}"


@cache
def _validator() -> Draft202012Validator:
    text = resources.files("fedpartial.server").joinpath("store_manifest.schema").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def _record(given: Mapping) -> Record:
    entries = tuple(Entry(**{**entry, "classes": tuple(entry["classes"])}) for entry in given["entries"])
    given = {**given, "entries": entries, "rolled_back": tuple(given.get("rolled_back", ()))}
    return Record(**given)


def _tuples(given: Mapping) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _damaged(path: Path, field: str, got: str) -> ConfigError:
    return ConfigError(
        where=str(path), field=field, got=got[:200], expected="a manifest as the store writes it", remedy=GO_BACK
    )
