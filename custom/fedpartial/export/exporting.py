"""One model in one format: written, loaded again, compared with the network, and only then put in its place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedpartial.errors import ConfigError
from fedpartial.export.bundle import load_bundle, write_bundle
from fedpartial.export.description import describe, open_shape
from fedpartial.export.formats import FORMATS, Format
from fedpartial.export.source import Example, Source
from fedpartial.export.verification import Agreement, Reference

ALL = "all"
BUNDLE = Format(name="bundle", file="bundle", write=write_bundle, load=load_bundle, needs=("monai",))
EVERY: dict[str, Format] = {BUNDLE.name: BUNDLE, **FORMATS}
"""Formats by name."""
DESCRIPTION = "model.json"
CANNOT = (RuntimeError, ValueError, TypeError, AssertionError)
"""What PyTorch's exporters raise for code that they cannot hold, and a program for an image that it does not take."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has written, or why it has not: ``problem``.

    batch and size say which images the file takes: "any" or a number; multiples, or one size (H W D).
    """

    format: str
    path: Path
    num_bytes: int = 0
    batch: str | int = 0
    size: list[int] | dict = ()
    agreement: Agreement | None = None
    problem: str | None = None


def formats_of(name: str) -> tuple[Format, ...]:
    """The formats that a name of --format stands for."""
    return tuple(EVERY.values()) if name == ALL else (EVERY[name],)


def check_out(out: Path, formats: tuple[Format, ...], *, force: bool) -> None:
    """Raise ConfigError where something would be replaced that the user has not offered for it."""
    if out.exists() and not out.is_dir():
        raise _wrong_out(str(out), "a folder", "Name another folder.")
    there = [given.file for given in formats if (out / given.file).exists()]
    if there and not force:
        remedy = "Name another folder, or add --force to replace them."
        raise _wrong_out(f"{out}, which has {', '.join(there)}", "a folder without these", remedy)


def export_model(source: Source, reference: Reference, given: Format, out: Path) -> Exported:
    """Write the network into ``out`` as that format, as freely as it can be: any batch and size, else fewer.

    Nothing is written that does not give the network's own results (verification.py).
    """
    target, problem = out / given.file, ""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        for number, example in enumerate(source.examples()):
            written = Path(folder) / str(number) / given.file
            written.parent.mkdir()
            try:
                given.write(source, example, written)
                agreement = reference.compare(given.load(written), example)
            except CANNOT as error:
                problem = _first_line(error)
                continue
            facts = {"num_bytes": _num_bytes(written), "agreement": agreement, **_open(source, given, example)}
            _replace(written, target)
            return Exported(format=given.name, path=target, **facts)
    return Exported(format=given.name, path=target, problem=problem)


def write_description(source: Source, exported: list[Exported], out: Path) -> Path:
    """``model.json`` beside the files: what a program needs to know, and what each file takes."""
    files = [one for one in exported if one.problem is None]
    taken = {one.path.name: {"format": one.format, "batch": one.batch, "size": one.size} for one in files}
    path = out / DESCRIPTION
    temporary = path.with_name(f".{os.getpid()}.{DESCRIPTION}")
    temporary.write_text(json.dumps({**describe(source), "files": taken}, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)
    return path


def _open(source: Source, given: Format, example: Example) -> dict:
    return open_shape(source, example if given is not BUNDLE or not source.is_dynunet else source.examples()[0])


def _replace(written: Path, target: Path) -> None:
    """Put a file or folder in its place; an old one goes last."""
    if target.is_dir():
        old = written.parent / "old"
        os.replace(target, old)
        os.replace(written, target)
        shutil.rmtree(old)
    else:
        os.replace(written, target)


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _wrong_out(got: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--out", field="folder", got=got, expected=expected, remedy=remedy)
