"""A site's disk is full while its cases are prepared. The disk is a tmpfs of a few pages: ENOSPC is the kernel's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from fault_work import events, read_report, results, updates
from real_federation import Federation
from tiny_work import bundle, edit

from fedpartial.flare.failure import FAILURE_FILE
from fedpartial.sites import site_file

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]
PAGES_FOR_TWO_CASES = "48k"


@pytest.fixture
def full_disk(consortium: Federation, tmp_path: Path):
    """Site liver prepares its cases on a disk that has no room for all of them."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={PAGES_FOR_TWO_CASES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    path = site_file(consortium.kit("liver") / "local", "liver")
    before = path.read_text(encoding="utf-8")
    edit(path, lambda given: given.update(cache_dir=str(disk)))
    try:
        yield disk
    finally:
        path.write_text(before, encoding="utf-8")
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_others_go_on_and_the_next_job_works_once_there_is_space(consortium, full_disk, tmp_path):
    job = consortium.submit(bundle(tmp_path / "first", min_sites=1))
    assert consortium.wait(job) == "FINISHED:COMPLETED"
    first = results(consortium, job)
    said = [event["reason"] for event in events(first, "failure")]
    failure = json.loads(next(consortium.kit("liver").glob(f"{job}/**/{FAILURE_FILE}")).read_text(encoding="utf-8"))
    assert updates(first) == {(1, "spleen")}
    kept = _cases(full_disk)
    assert 0 < len(kept) < 4
    assert {"liver"} == {event["site"] for event in events(first, "failure")}
    reason = "no space left for the prepared cases (details at the site, in its log and site_failure.json)"
    assert set(said) == {reason}
    assert f"liver gave no scores: {reason}" in read_report(first)["notes"]
    assert failure["error"].startswith(f"no space left for the prepared cases in {full_disk / 'store'}")
    assert failure["error"].endswith("Free some, or choose another place for them.")

    subprocess.run(["mount", "-o", "remount,size=10m", full_disk], check=True)
    job = consortium.submit(bundle(tmp_path / "second", min_sites=2))
    assert consortium.wait(job) == "FINISHED:COMPLETED"
    assert updates(results(consortium, job)) == {(1, "liver"), (1, "spleen")}
    assert len(_cases(full_disk)) == 4
    assert kept.items() <= _cases(full_disk).items(), "what was prepared before is used as it is"
    assert f"prepared {4 - len(kept)} case(s)" in consortium.site_log("liver")


def _cases(disk: Path) -> dict[str, int]:
    """When each whole case was written."""
    return {meta.parent.name: meta.stat().st_mtime_ns for meta in disk.glob("store/*/[!.]*/meta.json")}
