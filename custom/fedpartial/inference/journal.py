"""What a folder of label maps remembers: which scans are done, and what they were made with. So that a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from fedpartial.errors import ConfigError, unique_keys
from fedpartial.inference.label_file import replacing
from fedpartial.inference.volumes import VOLUMES, save_volumes

JOURNAL, LOCK = "predictions.json", ".predictions.lock"
SCHEMA_VERSION = 1
SHORT = 12


@dataclass(frozen=True, kw_only=True)
class Done:
    """A segmented scan. input: short_hash of where it came from, whose path is nobody else's business. stamp: its
    files, bytes and time. made_with: model, rule, version. files: names in the folder by kind ("labels", "image",
    "picture")."""

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

    def finished(
        self, name: str, source: str, stamp: Mapping[str, int], made_with: Mapping[str, object]
    ) -> Done | None:
        """What was done before and still holds: the same input, the same model, and label maps that are there."""
        done = self.scans.get(name)
        same = done is not None and (done.input, done.stamp, done.made_with) == (source, stamp, made_with)
        return done if same and self.has(done, "labels") else None

    def has(self, done: Done, kind: str) -> bool:
        """Whether a scan's files of a kind were written, and are there."""
        names = done.files.get(kind, ())
        return bool(names) and all((self.folder / name).is_file() for name in names)

    def check(self, name: str, source: str, stamp: Mapping[str, int], made_with: Mapping[str, object]) -> None:
        """ConfigError where a scan of this name was another image, or was made in another way."""
        if name not in self.scans:
            return
        old = self.scans[name]
        if old.input != source:
            raise self._other(f"{name}: image", "another file of this name", "the file that was segmented here before")
        if old.stamp != stamp:
            raise self._other(f"{name}: image", "a file that has changed", "what it was when it was segmented")
        if changed := [part for part in made_with if made_with[part] != old.made_with.get(part)]:
            got = ", ".join(_shown(old.made_with.get(part)) for part in changed)
            expected = ", ".join(_shown(made_with[part]) for part in changed)
            raise self._other(f"{name}: {', '.join(changed)}", got, expected)

    def _other(self, field: str, got: str, expected: str) -> ConfigError:
        remedy = "Give another folder, or --force to segment again and replace its label map."
        return ConfigError(where=str(self.path), field=field, got=got, expected=expected, remedy=remedy)

    def record(self, name: str, done: Done, classes: Iterable[str]) -> None:
        """Remember a scan, beside what other processes add to the folder, and its volumes for these classes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK):
            self.scans.update({**open_journal(self.folder).scans, name: done})
            scans = {key: asdict(scan) for key, scan in self.scans.items()}
            content = {"schema_version": SCHEMA_VERSION, "scans": scans}
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            rows = {key: scan.volumes_ml for key, scan in self.scans.items()}
            save_volumes(self.folder / VOLUMES, rows, classes)


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


def short_hash(text: str) -> str:
    """Tells one text from another without saying it."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:SHORT]


def _shown(value: object) -> str:
    text = str(value)
    return text[:SHORT] if len(text) == hashlib.sha256().digest_size * 2 else text
