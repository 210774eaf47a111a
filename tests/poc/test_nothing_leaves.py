"""What the server stores holds no file name, patient identifier or path of a site, whether a job succeeds or fails."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_federation import Federation
from startup_kits import SERVER, python_without_the_package
from tiny_work import SITES, bundle, hospitals

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
PATIENT = "Mustermann_19550412"


def test_a_shipped_job_runs_and_neither_it_nor_a_failing_one_tells_the_server_a_name(tmp_path):
    files = hospitals(tmp_path / "hospitals", PATIENT)
    others = python_without_the_package(tmp_path / "python")
    with Federation(tmp_path / "federation", SITES, policy="byoc", site_files=files, variables=others) as federation:
        federation.python("-c", "import nvflare, torch")
        with pytest.raises(subprocess.CalledProcessError):
            federation.python("-c", "import fedpartial")
        good = federation.submit(bundle(tmp_path / "shipped", "shipped"))
        assert federation.wait(good) == "FINISHED:COMPLETED"
        (missing,) = (files["liver"].parent / f"{PATIENT}_data").glob("*_training1.nii.gz")
        missing.unlink()
        bad = federation.submit(bundle(tmp_path / "shipped again", "shipped"))
        assert federation.wait(bad) != "FINISHED:COMPLETED"
        downloads = [federation.download(good), federation.download(bad)]
    told = "\n".join(path.read_text() for path in federation.kit("liver").glob("*/app_*/site_failure.json"))
    assert missing.name in told, "the site itself is told everything"
    secrets = [PATIENT, *(str(federation.kit(site)) for site in SITES)]
    found, checked = [], 0
    for folder in (federation.kit(SERVER), *downloads):
        for name, content in _contents(folder):
            found += [f"{name}: {secret}" for secret in secrets if secret.encode() in content]
            checked += 1
    assert checked > 50
    assert not found


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file, and of every member of a zip, however deep."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield from _unpacked(str(path.relative_to(folder)), path.read_bytes())


def _unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, name.encode() + content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from _unpacked(f"{name}/{member}", archive.read(member))
