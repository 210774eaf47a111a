"""The same job is submitted twice at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fault_work import ROUNDS, assert_same_bits, updates, weights
from real_federation import Federation
from tiny_work import SITES

from fedpartial.sites import site_file

pytestmark = [pytest.mark.poc, pytest.mark.timeout(900)]


def test_both_jobs_run_side_by_side_and_end_with_the_same_model(consortium, twins):
    first, second = twins
    starts = {job: _times(results) for job, results in twins.items()}
    assert max(begin for begin, _ in starts.values()) < min(end for _, end in starts.values())
    for results in twins.values():
        assert updates(results) == {(number, site) for number in range(1, ROUNDS + 1) for site in SITES}
    assert_same_bits(weights(twins[first]), weights(twins[second]))


def test_both_jobs_share_one_store_in_which_every_case_is_whole_and_was_prepared_once(consortium, twins):
    for site in SITES:
        (store,) = (folder for folder in _cache(consortium, site).glob("store/*") if folder.is_dir())
        cases = sorted(path.name for path in store.iterdir())
        assert len(cases) == 4
        assert not [name for name in cases if name.startswith(".unfinished")]
        for case in cases:
            assert json.loads((store / case / "meta.json").read_text(encoding="utf-8"))["foreground_rows"]
        assert consortium.site_log(site).count("prepared 4 case(s)") == 1


def _times(results: Path) -> tuple[float, float]:
    """When a job had its plan and when its report was written."""
    events = [json.loads(line) for line in (results / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    return tuple(next(e["time"] for e in events if e["event"] == kind) for kind in ("plan", "report"))


def _cache(consortium: Federation, site: str) -> Path:
    given = site_file(consortium.kit(site) / "local", site)
    return Path(json.loads(given.read_text(encoding="utf-8"))["cache_dir"])
