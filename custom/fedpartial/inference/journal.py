"""What a folder of label maps remembers: which scans are done, and what they were made with. So that a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedpartial.errors import ConfigError, unique_keys
from fedpartial.inference.label_file import replacing

JOURNAL = "predictions.json"
SCHEMA_VERSION = 1
SHORT = 12


@dataclass(frozen=True, kw_only=True)
class Done:
    """A segmented scan. stamp: its input's files, bytes and time. made_with: model, rule, version. files: names in the
    folder by kind ("labels", "image", "picture")."""

    input: str
    stamp: Mapping[str, int]
    made_with: Mapping[str, object]
    files: Mapping[str, tuple[str, ...]]
    volumes_ml: Mapping[str, float]
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", {kind: tuple(names) for kind, names in self.files.items()})


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The journal of one folder; scans by name."""

    folder: Path
    scans: dict[str, Done] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / JOURNAL

    def finished(self, name: str, stamp: Mapping[str, int], made_with: Mapping[str, object]) -> Done | None:
        """What was done before and still holds: the same input, the same model, and label maps that are there."""
        done = self.scans.get(name)
        same = done is not None and done.stamp == stamp and done.made_with == made_with
        return done if same and self.has(done, "labels") else None

    def has(self, done: Done, kind: str) -> bool:
        """Whether a scan's files of a kind were written, and are there."""
        names = done.files.get(kind, ())
        return bool(names) and all((self.folder / name).is_file() for name in names)

    def check(self, names: Iterable[str], made_with: Mapping[str, object]) -> None:
        """ConfigError where one of these scans was made in another way."""
        for name in names:
            if name in self.scans and (old := self.scans[name].made_with) != made_with:
                changed = [part for part in made_with if made_with[part] != old.get(part)]
                raise ConfigError(
                    where=str(self.path),
                    field=f"{name}: {', '.join(changed)}",
                    got=", ".join(_shown(old.get(part)) for part in changed),
                    expected=", ".join(_shown(made_with[part]) for part in changed),
                    remedy="Give --force to segment these scans again, or another folder.",
                )

    def record(self, name: str, done: Done) -> None:
        """Remember a scan, beside what another process may have added to the folder."""
        self.scans.update({**open_journal(self.folder).scans, name: done})
        content = {"schema_version": SCHEMA_VERSION, "scans": {key: asdict(scan) for key, scan in self.scans.items()}}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def open_journal(folder: Path) -> Journal:
    """The journal of a folder, empty where there is none; ConfigError for a file that is no journal."""
    path = folder / JOURNAL
    if not path.is_file():
        return Journal(folder=folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}")
        return Journal(folder=folder, scans={name: Done(**scan) for name, scan in content["scans"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            where=str(path),
            field="(file)",
            got=f"{type(error).__name__}: {error}",
            expected=f"a journal of fedpartial predict, schema_version {SCHEMA_VERSION}",
            remedy="Remove it, or give another folder.",
        ) from error


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(value: object) -> str:
    text = str(value)
    return text[:SHORT] if len(text) == hashlib.sha256().digest_size * 2 else text
