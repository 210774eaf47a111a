"""The case store: every case prepared once, then memory-mapped by every process.

``<cache>/store/<site>-<key>/<case>/`` holds image.npy (float16, H W D), label.npy (uint8 channels),
foreground.npy (int16 voxel coordinates, class after class) and meta.json. The key covers what decides the
content: spacing, window, normalisation, label space and the site's label values - not, say, the learning
rate. A source file that changed is noticed by its fingerprint. Everything stays on the site's own disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fedpartial.data.datalist import ANNOTATED_SPLITS, Case, read_datalist
from fedpartial.data.integrity import Fault, Inspected, Inspector, Progress, labelled_mask, raise_for_faults
from fedpartial.data.preprocess import preprocess_image, preprocess_label
from fedpartial.data.stored_case import META, StoredCase, write_case
from fedpartial.errors import needs_space
from fedpartial.labels import LabelSpace
from fedpartial.presets import Preset
from fedpartial.sites import SiteConfig

log = logging.getLogger(__name__)

STORE_VERSION = 1
"""Raise it when preparation changes, so that stores of older versions are left alone."""

FINGERPRINT_BYTES = 65_536
UNFINISHED = ".unfinished-"


@dataclass(frozen=True, kw_only=True)
class PreparedSite:
    """The prepared cases of a site, by split."""

    name: str
    folder: Path
    cases: dict[str, tuple[StoredCase, ...]]

    @property
    def training(self) -> tuple[StoredCase, ...]:
        return self.cases.get("training", ())

    @property
    def validation(self) -> tuple[StoredCase, ...]:
        return self.cases.get("validation", ())


def prepare_cases(
    site: SiteConfig,
    preset: Preset,
    splits: Sequence[str] = ANNOTATED_SPLITS,
    progress: Progress | None = None,
    check: bool = True,
) -> PreparedSite:
    """Open a site's store, preparing first the cases that are new or whose files changed.

    Opening an up-to-date store reads no volume. Each file to prepare is read once, checked and prepared;
    DataFaults then lists the faults of all of them (faultless cases are kept). A second process that needs
    the same store waits. ``check=False`` skips the comparisons, for data that was checked just before.
    """
    store = CaseStore(site, preset, splits)
    if store.missing():
        with needs_space("the prepared cases", store.folder), store.locked():
            store.prepare_missing(progress, check)
    return store.open()


class CaseStore:
    """The store of one site under one preset."""

    def __init__(self, site: SiteConfig, preset: Preset, splits: Sequence[str] = ANNOTATED_SPLITS):
        by_split = read_datalist(site)
        self.site, self.preset = site, preset
        self.cases = {split: by_split[split] for split in splits}
        self.inspector = Inspector(site, preset.label_space)
        self.folder = site.cache_dir / "store" / f"{site.name}-{store_key(site, preset)}"

    def missing(self) -> list[Case]:
        """Cases that are not in the store, or not as their files are now."""
        return [case for cases in self.cases.values() for case in cases if self._meta(case) is None]

    def open(self) -> PreparedSite:
        """All cases, without reading a volume; call it when nothing is missing."""
        opened = {split: tuple(self._stored(case) for case in cases) for split, cases in self.cases.items()}
        return PreparedSite(name=self.site.name, folder=self.folder, cases=opened)

    def locked(self) -> AbstractContextManager:
        """The right to write; logs a line when another process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.folder}.lock")
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            log.info("site %s: waiting for another process that prepares the same cases", self.site.name)
            return lock.acquire()

    def prepare_missing(self, progress: Progress | None = None, check: bool = True) -> None:
        """Prepare what is missing now; hold the lock."""
        for leftover in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        missing = self.missing()
        faults: list[Fault] = []
        for done, case in enumerate(missing, start=1):
            faults += self._prepare(case, check)
            if progress:
                progress(done, len(missing), case.image.name)
        raise_for_faults(faults)
        log.info("site %s: prepared %d case(s) in %s", self.site.name, len(missing), self.folder)

    def _prepare(self, case: Case, check: bool) -> list[Fault]:
        """Write one case in a folder of its own, then move it into place; or say what is wrong with it."""
        fingerprints = _fingerprints(case)
        inspected = self.inspector.inspect(case, compare=check)
        if inspected.faults:
            return inspected.faults
        with needs_space("the prepared cases", self.folder):
            self._write_in_place(case, inspected, fingerprints)
        return []

    def _write_in_place(self, case: Case, inspected: Inspected, fingerprints: list) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        try:
            self._write(unfinished, case, inspected, fingerprints)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
            raise
        target = self.folder / _case_name(case)
        if target.exists():
            os.rename(target, f"{unfinished}-old")
        os.rename(unfinished, target)
        shutil.rmtree(f"{unfinished}-old", ignore_errors=True)

    def _write(self, folder: Path, case: Case, inspected: Inspected, fingerprints: list) -> None:
        image, label = inspected.image, inspected.label
        prepared = preprocess_image(image, self.preset)
        channels = None if label is None else preprocess_label(label, self.inspector.table, self.preset)
        meta = {
            "image": str(case.image),
            "label": None if case.label is None else str(case.label),
            "labels": None if case.labels is None else list(case.labels),
            "fingerprints": fingerprints,
            "affine": prepared.affine.tolist(),
            "original_shape": list(image.array.shape),
            "original_affine": image.affine.tolist(),
        }
        write_case(folder, prepared.array, channels, meta)

    def _meta(self, case: Case) -> dict | None:
        """What is stored of a case; None where it is missing or no longer true."""
        try:
            meta = json.loads((self.folder / _case_name(case) / META).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        labels = None if case.labels is None else list(case.labels)
        return meta if meta["labels"] == labels and meta["fingerprints"] == _fingerprints(case) else None

    def _stored(self, case: Case) -> StoredCase:
        meta = json.loads((self.folder / _case_name(case) / META).read_text(encoding="utf-8"))
        labelled = labelled_mask(case, self.site, self.preset.label_space)
        rows = {int(channel): tuple(span) for channel, span in meta["foreground_rows"].items()}
        return StoredCase(
            folder=self.folder / _case_name(case),
            index=case.index,
            split=case.split,
            labelled=labelled,
            affine=np.array(meta["affine"]),
            original_shape=tuple(meta["original_shape"]),
            original_affine=np.array(meta["original_affine"]),
            image_path=case.image,
            label_path=case.label,
            foreground_rows={channel: span for channel, span in rows.items() if labelled[channel]},
        )


def store_key(site: SiteConfig, preset: Preset) -> str:
    """Short hash of everything except the files that decides what a prepared case holds."""
    decides = {
        "version": STORE_VERSION,
        "spacing_mm": preset.spacing_mm,
        "window_hu": preset.window_hu,
        "normalise": (preset.normalise_subtract, preset.normalise_divide),
        "label_space": _plain(preset.label_space),
        "site_labels": sorted(site.labels.items()),
    }
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=6).hexdigest()


def content_of(case: StoredCase) -> list:
    """What decides the content of a prepared case, in plain values: its store's key, and of its files sizes and hashes.

    A file that was written again with the same bytes, or moved, is the same.
    """
    meta = json.loads((case.folder / META).read_text(encoding="utf-8"))
    key = case.folder.parent.name.rpartition("-")[2]
    return [key, [[size, digest] for size, _, digest in meta["fingerprints"]]]


def _plain(space: LabelSpace) -> dict:
    """The space in plain values; sides only where there are some, so that older stores keep their key."""
    plain = asdict(space)
    for organ in plain["organs"]:
        if not organ["sides"]:
            del organ["sides"]
    return plain


def _case_name(case: Case) -> str:
    """A readable folder name that differs wherever the files differ."""
    paths = f"{case.image.absolute()}|{case.label and case.label.absolute()}"
    return f"{case.image.name.split('.')[0]}-{hashlib.blake2b(paths.encode(), digest_size=6).hexdigest()}"


def _fingerprints(case: Case) -> list | None:
    """Of the case's files; None where one cannot be opened."""
    try:
        return [_fingerprint(path) for path in (case.image, case.label) if path is not None]
    except OSError:
        return None


def _fingerprint(path: Path) -> list:
    """Size, time of change, and a hash of both ends (the last bytes of a .gz are the checksum of it all)."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.blake2b(file.read(FINGERPRINT_BYTES), digest_size=16)
        if status.st_size > FINGERPRINT_BYTES:
            file.seek(max(FINGERPRINT_BYTES, status.st_size - FINGERPRINT_BYTES))
            digest.update(file.read())
    return [status.st_size, status.st_mtime_ns, digest.hexdigest()]
