"""A folder remembers what is done and how it was made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fedpartial.errors import ConfigError
from fedpartial.inference.journal import JOURNAL, Done, open_journal
from fedpartial.inference.volumes import VOLUMES

STAMP, MADE = {"files": 1, "size": 9, "mtime_ns": 5}, {"model": "a" * 64, "fusion": {"priority": ["liver"]}}
DONE = Done(
    input="a1", stamp=STAMP, made_with=MADE, files={"labels": ["l.nii"]}, volumes_ml={"liver": 1.5}, seconds=2.0
)


@pytest.fixture
def journal(tmp_path):
    (tmp_path / "l.nii").touch()
    open_journal(tmp_path).record("ct", DONE, ["liver"])
    return open_journal(tmp_path)


def test_what_is_done_counts_only_for_the_same_image_the_same_model_and_files_that_are_there(journal, tmp_path):
    assert journal.finished("ct", "a1", STAMP, MADE) == DONE
    assert journal.finished("ct", "b2", STAMP, MADE) is None
    assert journal.finished("ct", "a1", {**STAMP, "size": 8}, MADE) is None
    assert journal.finished("ct", "a1", STAMP, {**MADE, "model": "b" * 64}) is None
    assert journal.finished("other", "a1", STAMP, MADE) is None
    (tmp_path / "l.nii").unlink()
    assert journal.finished("ct", "a1", STAMP, MADE) is None


def test_another_image_or_setting_is_named(journal):
    journal.check("ct", "a1", STAMP, MADE)
    journal.check("new", "b2", STAMP, MADE)
    with pytest.raises(
        ConfigError, match=r"ct: model: got 'aaaaaaaaaaaa'; expected bbbbbbbbbbbb\. Give another folder"
    ):
        journal.check("ct", "a1", STAMP, {**MADE, "model": "b" * 64})
    with pytest.raises(ConfigError, match="ct: image: got 'another file of this name'"):
        journal.check("ct", "b2", STAMP, MADE)
    with pytest.raises(ConfigError, match="ct: image: got 'a file that has changed'"):
        journal.check("ct", "a1", {**STAMP, "size": 8}, MADE)


def test_several_writers_may_fill_one_folder(journal, tmp_path):
    """Threads with a journal each, as processes have; a lock is held by one of either."""

    def write(number: int) -> None:
        own = open_journal(tmp_path)
        for nth in range(5):
            own.record(f"{number}-{nth}", DONE, ["liver"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(open_journal(tmp_path).scans) == 1 + 4 * 5
    assert len((tmp_path / VOLUMES).read_text().splitlines()) == 2 + 4 * 5


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99, "scans": {}}', '{"schema_version": 1}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(ConfigError, match="Remove it, or give another folder"):
        open_journal(tmp_path)
