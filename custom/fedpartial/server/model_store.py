"""The models of one federation, kept by its server for as long as the federation lives.

A folder holds the versions of every site's model and of the global one (safetensors), and a manifest, which alone says
what counts. A new version is written and synchronised before the manifest names it; a version is deleted after the
manifest has forgotten it. So a process that dies at any moment leaves the state before or after, and at most files
that no manifest names, which the next change deletes. One process at a time changes a store; readers need no lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from fedpartial.errors import ConfigError
from fedpartial.presets.config import Preset
from fedpartial.server.durable import make_folder, write_durably
from fedpartial.server.ledger import LEDGER, Ledger
from fedpartial.server.manifest_file import ManifestFile
from fedpartial.server.store_files import DISTILLING, PROBABILITIES, delete_folder, model_file
from fedpartial.server.store_manifest import GLOBAL, Entry, Manifest, Record, Removal, check_name
from fedpartial.server.store_place import store_folder

__all__ = ["DISTILLING", "GLOBAL", "LEDGER", "PROBABILITIES", "Entry", "ModelStore", "Removal", "store_folder"]


class ModelStore:
    """The store in ``folder``, which belongs to one federation and is made by the first change.

    Every call reads the manifest anew, so several processes may look at one store.

    Raises:
        ConfigError: from every method, for a damaged or lost manifest, one of a newer format, and a file that is not
            the store's own. Nothing is changed then.
        NoSpaceLeft: from every change, on a full disk; the state is that before the change.
    """

    def __init__(self, folder: Path, *, patience_s: float = 60.0):
        self.folder = folder
        self._file = ManifestFile(folder, patience_s)
        self.probabilities = folder / PROBABILITIES
        self.ledger = Ledger(folder / LEDGER)

    def manifest(self) -> Manifest:
        """Everything that the store says about itself, at one moment."""
        return self._file.read()

    def sites(self) -> dict[str, Entry]:
        """The version in use of every site, by name."""
        manifest = self.manifest()
        found = {name: manifest.active(name) for name in sorted(manifest.records) if name != GLOBAL}
        return {name: entry for name, entry in found.items() if entry}

    def history(self, site: str) -> tuple[Entry, ...]:
        """All versions of a site (or "global"), in their order; () for one that is not there."""
        record = self.manifest().records.get(site)
        return record.entries if record else ()

    def removals(self) -> tuple[Removal, ...]:
        """All withdrawals, oldest first, also of sites that have come back."""
        return self.manifest().removals

    def globals(self) -> list[Entry]:
        """All versions of the global model, in their order."""
        return list(self.history(GLOBAL))

    def latest_global(self) -> Entry | None:
        """The global version in use: the latest one, unless it was rolled back."""
        return self.manifest().active(GLOBAL)

    def load(self, entry: Entry) -> dict[str, np.ndarray]:
        """The tensors of a version; ConfigError when its file is gone or is not what was stored."""
        path = model_file(self.folder, entry)
        try:
            content = path.read_bytes()
        except OSError as error:
            got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            remedy = "It was removed meanwhile, or bring it back from a backup."
            raise _unreadable(path, entry, got, remedy) from error
        if (found := hashlib.sha256(content).hexdigest()) != entry.checksum:
            remedy = "Bring the file back from a backup, roll back to another version, or let the site send it again."
            raise _unreadable(path, entry, f"a damaged file, SHA-256 {found}", remedy)
        try:
            return {name: np.array(value) for name, value in safetensors.load(content).items()}
        except SafetensorError as error:
            raise _unreadable(path, entry, str(error), "It was stored so: roll back to another version.") from error

    def add(
        self,
        site: str,
        weights: Mapping[str, np.ndarray],
        *,
        preset: Preset,
        job: str,
        source: str | None = None,
        since: int | None = None,
    ) -> Entry:
        """Store a site's model as its version in use; every earlier version stays.

        A model that is one of its versions already makes no new one; it is in use again, unless somebody has rolled
        back from it: such a site stays where it is until it sends another model. source: "phantom" or "site file", what
        it learnt from. since: how many withdrawals there were when its training began. ConfigError for a site that has
        withdrawn since, a name that is no site's, and weights without a class.
        """
        check_name(site, str(self.folder))
        return self._add(_described(site, preset, job, source=source), weights, preset, since)

    def add_global(
        self,
        weights: Mapping[str, np.ndarray],
        *,
        preset: Preset,
        job: str,
        teachers: Mapping[str, int],
        start: int | None = None,
    ) -> Entry:
        """Store a global model, the versions it was distilled from, and the global version that it started from.

        The global model that is in use already makes no new version. ConfigError when one of those versions, or one
        that the start has learnt from, is not in the store: its site has withdrawn since.
        """
        known = {name: teachers[name] for name in sorted(teachers)}
        return self._add(_described(GLOBAL, preset, job, teachers=known, start=start), weights, preset, None)

    def forget_distillation(self) -> None:
        """Delete what a distillation has left that has ended, or that may not go on."""
        with self._file.changing():
            delete_folder(self.folder / DISTILLING)

    def roll_back(self, site: str, version: int) -> Entry:
        """Use another version of a site's model (or of "global"); the later ones stay."""
        with self._file.changing() as manifest:
            record = self._record(manifest, site)
            entry = record.find(version)
            if entry is None:
                listed = ", ".join(str(entry.version) for entry in record.entries)
                raise self._error(site, f"version {version}", f"one of {listed}", "Name a version that is kept.")
            if record.active != version:
                self._file.commit(manifest.with_record(site, record.rolled_back_to(version)))
            return entry

    def remove(self, site: str, *, with_globals: bool = False) -> Removal:
        """A site withdraws: delete all versions of its model and what was computed from them.

        with_globals: also delete the global models that learnt from it, and those that started from one of these.
        Without it they stay, and are named in the result. A site that is removed already: whatever is left of it is
        deleted. A distillation under way starts anew (one that is being computed fails when it is stored).
        """
        check_name(site, str(self.folder))
        with self._file.changing() as manifest:
            if site not in manifest.records:
                raise self._unknown(manifest, site)
            learnt = manifest.distilled_from(site)
            versions = tuple(entry.version for entry in manifest.records[site].entries)
            if versions or (with_globals and learnt):
                gone = learnt if with_globals else ()
                removal = Removal(
                    site=site, time=_now(), versions=versions, distilled_into=learnt, globals_deleted=gone
                )
                manifest = manifest.with_removal(removal)
                self._file.commit(manifest)
            delete_folder(self.folder / DISTILLING)
            return next(removal for removal in reversed(manifest.removals) if removal.site == site)

    def _add(self, model: Entry, weights: Mapping[str, np.ndarray], preset: Preset, since: int | None) -> Entry:
        content = safetensors.save({key: np.asarray(value, order="C") for key, value in weights.items()})
        model = replace(
            model,
            classes=self._classes(model.site, weights, preset),
            checksum=hashlib.sha256(content).hexdigest(),
            num_bytes=len(content),
        )
        with self._file.changing() as manifest:
            self._check_consent(manifest, model, since)
            if known := self._known(manifest, model):
                record = manifest.records[model.site]
                if known.version not in (record.active, *record.rolled_back):
                    self._file.commit(manifest.with_record(model.site, replace(record, active=known.version)))
                return known
            entry = replace(model, version=manifest.next_version(model.site))
            path = model_file(self.folder, entry)
            make_folder(path.parent)
            write_durably(path, content)
            self._file.commit(manifest.with_entry(entry))
            return entry

    def _known(self, manifest: Manifest, model: Entry) -> Entry | None:
        """A version that is this model: the one in use, or of a site any that is kept."""
        active, record = manifest.active(model.site), manifest.records.get(model.site)
        kept = record.entries if record and model.site != GLOBAL else ()
        found = (entry for entry in (active, *kept) if entry and entry.holds_the_same(model))
        return next((entry for entry in found if self._is_whole(entry)), None)

    def _is_whole(self, entry: Entry) -> bool:
        """Else a site that sends its model again mends it by a new version."""
        try:
            self.load(entry)
        except ConfigError:
            return False
        return True

    def _classes(self, name: str, weights: Mapping[str, np.ndarray], preset: Preset) -> tuple[str, ...]:
        """In the order of the label space: that of the tensors depends on how they came."""
        from fedpartial.networks.universal import universal_classes  # torch: not for those who only look

        found, known = set(universal_classes(weights)), preset.label_space.classes
        if not found or found - set(known):
            got = f"{len(weights)} tensors, with embeddings of {', '.join(sorted(found)) or 'no class'}"
            expected = f"a universal network of classes of preset {preset.name!r}: {', '.join(known)}"
            raise self._error(name, got, expected, "Only models of an MMDS job can be stored.")
        return tuple(one for one in known if one in found)

    def _check_consent(self, manifest: Manifest, model: Entry, since: int | None) -> None:
        for name, version in manifest.withdrawn(model.teachers, model.start):
            expected = "models that are in the store when what has learnt from them is stored"
            remedy = "If the site has withdrawn meanwhile, distil again without it."
            raise self._error(GLOBAL, f"teacher {name}, version {version}", expected, remedy)
        if since is not None and any(removal.site == model.site for removal in manifest.removals[since:]):
            got = "a model that was asked for before the site withdrew"
            remedy = "It takes part again in another job, if it wants to."
            raise self._error(model.site, got, "no model of a site that has withdrawn", remedy)

    def _record(self, manifest: Manifest, site: str) -> Record:
        record = manifest.records.get(site)
        if record is None or not record.entries:
            raise self._unknown(manifest, site)
        return record

    def _unknown(self, manifest: Manifest, site: str) -> ConfigError:
        known = [name for name, record in sorted(manifest.records.items()) if record.entries]
        expected = f"one of {', '.join(known)}" if known else "a site that has sent a model; none has yet"
        return self._error(site, "no model of this name", expected, "Correct the name.")

    def _error(self, field: str, got: str, expected: str, remedy: str) -> ConfigError:
        return ConfigError(where=str(self.folder), field=field, got=got, expected=expected, remedy=remedy)


def _described(name: str, preset: Preset, job: str, **origin) -> Entry:
    """A model that is not in the store yet, without its content."""
    return Entry(
        site=name,
        version=0,
        classes=(),
        preset=preset.name,
        architecture=_architecture(preset),
        checksum="",
        num_bytes=0,
        time=_now(),
        job=job,
        **origin,
    )


def _architecture(preset: Preset) -> dict:
    """As JSON gives it back, so that an entry equals the one that is read."""
    arguments = json.loads(json.dumps(asdict(preset.network)))
    return {"name": type(preset.network).__name__, "arguments": arguments}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unreadable(path: Path, entry: Entry, got: str, remedy: str) -> ConfigError:
    expected = f"version {entry.version} of {entry.site!r}, SHA-256 {entry.checksum}"
    return ConfigError(where=str(path), field="(file)", got=got, expected=expected, remedy=remedy)
