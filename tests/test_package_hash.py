"""The package's hash: same files, same hash; one byte, another hash; no caches and no editor files."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import pytest

from fedpartial.package_hash import MARKERS, PACKAGE, SUFFIXES, hash_of, package_files, package_hash


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "fedpartial", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_hash_covers_the_files_of_the_package():
    package_hash.cache_clear()  # the package may have been edited since an earlier test
    files = package_files()
    assert list(files) == sorted(files)
    assert {"__init__.py", "py.typed", "flare/learner.py", "evaluation/report.schema"} <= set(files)
    assert files["package_hash.py"] == hashlib.sha256((PACKAGE / "package_hash.py").read_bytes()).hexdigest()
    assert len(package_hash()) == 64
    assert package_hash() == hash_of(files)


def test_every_package_data_file_of_an_installation_is_covered():
    """pyproject.toml says what is installed beside *.py."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["fedpartial"]
    assert set(patterns) == {*MARKERS, *(f"**/*{suffix}" for suffix in SUFFIXES if suffix != ".py")}


def test_a_copy_has_the_same_hash_wherever_it_lies(copy):
    assert package_files(copy) == package_files()


def test_caches_and_editor_files_do_not_count(copy):
    for name in ("__pycache__/labels.cpython-311.pyc", "flare/__pycache__/x.py", ".idea/workspace.json", "labels.pyc"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
    for name in ("labels.py~", ".labels.py.swp", ".#labels.py", "#labels.py#", "flare/.DS_Store", "notes.txt"):
        (copy / name).write_text("x")
    assert package_files(copy) == package_files()


def one_byte(copy: Path) -> str:
    path = copy / "flare" / "learner.py"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    return "flare/learner.py"


def a_new_file(copy: Path) -> str:
    (copy / "methods" / "mine.py").write_text("")
    return "methods/mine.py"


def a_missing_file(copy: Path) -> str:
    (copy / "evaluation" / "report.schema").unlink()
    return "evaluation/report.schema"


@pytest.mark.parametrize("change", [one_byte, a_new_file, a_missing_file])
def test_every_change_gives_another_hash(copy, change):
    name = change(copy)
    before, after = package_files(), package_files(copy)
    assert {n for n in {*before, *after} if before.get(n) != after.get(n)} == {name}
    assert hash_of(after) != package_hash()


def test_a_renamed_file_gives_another_hash():
    assert hash_of({"a.py": "1", "b.py": "2"}) != hash_of({"a.py": "2", "b.py": "1"})
    assert hash_of({"b.py": "2", "a.py": "1"}) == hash_of({"a.py": "1", "b.py": "2"})
