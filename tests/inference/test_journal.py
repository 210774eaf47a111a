"""A folder remembers what is done and how it was made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedpartial.errors import ConfigError
from fedpartial.inference.journal import JOURNAL, Done, open_journal

STAMP, MADE = {"files": 1, "size": 9, "mtime_ns": 5}, {"model": "a" * 64, "fusion": {"priority": ["liver"]}}
DONE = Done(
    input="ct.nii", stamp=STAMP, made_with=MADE, files={"labels": ["l.nii"]}, volumes_ml={"liver": 1.5}, seconds=2.0
)


@pytest.fixture
def journal(tmp_path):
    (tmp_path / "l.nii").touch()
    open_journal(tmp_path).record("ct", DONE)
    return open_journal(tmp_path)


def test_what_is_done_counts_only_for_the_same_image_the_same_model_and_files_that_are_there(journal, tmp_path):
    assert journal.finished("ct", STAMP, MADE) == DONE
    assert journal.finished("ct", {**STAMP, "size": 8}, MADE) is None
    assert journal.finished("ct", STAMP, {**MADE, "model": "b" * 64}) is None
    assert journal.finished("other", STAMP, MADE) is None
    (tmp_path / "l.nii").unlink()
    assert journal.finished("ct", STAMP, MADE) is None


def test_another_setting_is_named(journal):
    journal.check(["ct", "new"], MADE)
    with pytest.raises(ConfigError, match=r"ct: model: got 'aaaaaaaaaaaa'; expected bbbbbbbbbbbb\. Give --force"):
        journal.check(["new", "ct"], {**MADE, "model": "b" * 64})


def test_two_processes_may_fill_one_folder(journal, tmp_path):
    open_journal(tmp_path).record("second", replace(DONE, input="2.nii"))
    journal.record("third", DONE)
    assert list(open_journal(tmp_path).scans) == ["ct", "second", "third"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99, "scans": {}}', '{"schema_version": 1}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(ConfigError, match="Remove it, or give another folder"):
        open_journal(tmp_path)
