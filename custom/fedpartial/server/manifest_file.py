"""The manifest of a store on disk: read by anybody, changed by one process at a time, whole after any crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedpartial.errors import ConfigError
from fedpartial.server.durable import make_folder, write_durably
from fedpartial.server.store_files import check_foreign, clear, is_store
from fedpartial.server.store_manifest import COPY, GO_BACK, MANIFEST, Manifest, read_manifest

LOCK = ".lock"


class ManifestFile:
    """The manifest in a store's folder. ``patience_s``: how long a change waits for another process's."""

    def __init__(self, folder: Path, patience_s: float):
        self.folder, self.patience_s = folder, patience_s

    def read(self) -> Manifest:
        """An empty one for a folder that is not there. ConfigError: damaged, lost, newer, or beside a foreign file."""
        check_foreign(self.folder)
        path = self.folder / MANIFEST
        if not path.exists() and is_store(self.folder) and not path.exists():  # a first change may have made it now
            expected = "the manifest of the models that lie beside it"
            raise ConfigError(where=str(path), field="(file)", got="no such file", expected=expected, remedy=GO_BACK)
        return read_manifest(path) if path.exists() else Manifest()

    @contextmanager
    def changing(self) -> Iterator[Manifest]:
        """The manifest, with nobody else writing, and nothing left of a process that died."""
        make_folder(self.folder)
        with self._locked():
            manifest = self.read()
            if self._content(MANIFEST) is None or self._content(MANIFEST) != self._content(COPY):
                self._write(manifest)  # also before the first model: models without a manifest are a lost manifest
            clear(self.folder, manifest)
            yield manifest

    def commit(self, manifest: Manifest) -> None:
        """The change itself, within ``changing``; what the manifest names no more is deleted after it."""
        self._write(manifest)
        clear(self.folder, manifest)

    def _write(self, manifest: Manifest) -> None:
        """The rename of the manifest is the moment of change. Its copy follows, for a manifest that gets damaged."""
        for name in (MANIFEST, COPY):
            write_durably(self.folder / name, manifest.to_json())

    def _content(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / LOCK, timeout=self.patience_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                where=str(self.folder),
                field=LOCK,
                got=f"held by another process for more than {self.patience_s:g} s",
                expected="one process that changes the store",
                remedy="Try again when that process has ended; nothing was changed.",
            ) from error
        try:
            yield
        finally:
            lock.release()
