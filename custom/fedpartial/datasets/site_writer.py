"""A site file and its datalist, written beside each other; nothing is written into the data set's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpartial.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SitePlace:
    """Where the two files of site ``name`` belong in the folder ``out``."""

    out: Path
    name: str

    @property
    def site_file(self) -> Path:
        return self.out / f"{self.name}.json"

    @property
    def datalist(self) -> Path:
        return self.out / "datalists" / f"{self.name}.json"


def check_place(place: SitePlace, data: Path, *, force: bool) -> None:
    """Raises ConfigError where the files would lie in the data set, be hidden, or replace others without ``force``."""
    out, data = place.out.resolve(), data.resolve()
    if out == data or data in out.parents:
        remedy = "Choose another folder, for example my_sites."
        raise _error(place.out, "a folder in that of the data set", "one outside: it stays as it is", remedy)
    if place.out.exists() and not place.out.is_dir():
        raise _error(place.out, "a file", "a folder, which may be new", "Choose another name.")
    if (place.out / "sites").is_dir():
        remedy = f"Use -o {place.out / 'sites'}."
        raise _error(place.out, "a folder with sites/ in it, which hides other site files", "that folder", remedy)
    existing = [str(path) for path in (place.site_file, place.datalist) if path.exists()]
    if existing and not force:
        remedy = "Add --force to replace them, or choose another --site or folder."
        raise _error(place.out, f"{' and '.join(existing)}, written before", "files that are new", remedy)


def write_site_files(place: SitePlace, data: Path, labels: Mapping[int, str] | None, datalist: Mapping) -> None:
    """``labels``: raw value -> class, None for public images. The datalist comes first: a site file without would be
    broken."""
    content = {} if labels is None else {"labels": {str(raw): name for raw, name in sorted(labels.items())}}
    content |= {"data_root": str(data.absolute()), "datalist": str(place.datalist.absolute())}
    _write(place.datalist, datalist)
    _write(place.site_file, content)


def _write(path: Path, content: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _error(out: Path, got: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--out", field=str(out), got=got, expected=expected, remedy=remedy)
