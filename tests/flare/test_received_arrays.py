"""Arrays of messages that lie in files: the same arrays, and nothing of them is left behind."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots

from fedpartial.flare import received_arrays
from fedpartial.flare.received_arrays import ArrayFile, FileConsumer, arrays_in_files, kept_in_file

ARRAYS = {
    "T0": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "T1": np.float16([1.5, -2.0, 65504.0]),
    "T2": np.float64(3.25).reshape(()),
    "T3": np.empty((0, 5), np.float32),
    "T4": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "T5": np.array([True, False]),
}


@pytest.fixture
def receiver():
    """What FLARE decodes arrays with; registered as every FLARE process does."""
    from nvflare.app_common.decomposers import numpy_decomposers

    numpy_decomposers.register()
    return fobs.get_dot_handler(dots.NUMPY_DOWNLOAD)


def portion(arrays: dict[str, np.ndarray]) -> list[bytes]:
    """As FLARE's sender packs them."""
    items = []
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **{name: array})
        items.append(stream.getvalue())
    return items


@contextmanager
def consuming(folder):
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        yield FileConsumer(ArrayFile(file))


def receive(consumer: FileConsumer, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    half = len(arrays) // 2
    for names in (list(arrays)[:half], list(arrays)[half:]):
        consumer.consume("ref", {}, portion({name: arrays[name] for name in names}))
    return consumer.file.arrays()


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_they_are_the_arrays_that_were_sent(tmp_path):
    with consuming(tmp_path) as consumer:
        found = receive(consumer, ARRAYS)
    check(found, ARRAYS)  # the file is closed
    assert all(array.flags.aligned and array.flags.c_contiguous for array in found.values())


def test_they_can_be_written_to(tmp_path):
    with consuming(tmp_path) as consumer:
        found = receive(consumer, ARRAYS)
    found["T0"] += 1
    assert found["T0"].ravel().tolist() == list(range(1, 25))
    check({"T1": found["T1"]}, {"T1": ARRAYS["T1"]})


def test_no_file_has_a_name_and_the_last_array_closes_it(tmp_path):
    with consuming(tmp_path) as consumer:
        found = receive(consumer, ARRAYS)
        assert not list(tmp_path.iterdir())
    assert _mapped(tmp_path) == 1
    kept = found["T0"][1:]
    del found, consumer
    assert _mapped(tmp_path) == 1
    assert kept[0, 0, 0] == 12
    del kept
    assert _mapped(tmp_path) == 0


def _mapped(folder) -> int:
    with open("/proc/self/maps") as maps:
        return sum(str(folder) in line for line in maps)


def test_portions_are_unpacked_one_at_a_time(tmp_path, monkeypatch):
    """NumPy's reader of headers is not safe in threads (ONE_AT_A_TIME)."""
    inside, most, guard = [], [], threading.Lock()
    unpack = FileConsumer._to_dict

    def watched(item):
        with guard:
            inside.append(item)
            most.append(len(inside))
        time.sleep(0.01)
        found = unpack(item)
        with guard:
            inside.remove(item)
        return found

    monkeypatch.setattr(FileConsumer, "_to_dict", staticmethod(watched))

    def download() -> None:
        with consuming(tmp_path) as consumer:
            check(receive(consumer, ARRAYS), ARRAYS)

    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 4 * len(ARRAYS)
    assert max(most) == 1


def test_nothing_received_is_no_array(tmp_path):
    with consuming(tmp_path) as consumer:
        assert consumer.file.arrays() == {}


def test_what_finds_no_space_stays_in_memory(tmp_path, monkeypatch, caplog):
    with consuming(tmp_path) as consumer:
        append = consumer.file._append

        def full(start, array):
            if array.size > 3:
                os.ftruncate(consumer.file._file.fileno(), start + 1)  # half of it was written
                raise OSError(errno.ENOSPC, "No space left on device")
            append(start, array)

        monkeypatch.setattr(consumer.file, "_append", full)
        found = receive(consumer, ARRAYS)
    check(found, ARRAYS)
    assert "stays in memory" in caplog.text


def test_flares_receiver_writes_files_until_the_end(tmp_path, receiver, monkeypatch):
    asked = []

    def download_object(from_fqcn, ref_id, per_request_timeout, cell, consumer, **options):
        asked.append((from_fqcn, ref_id, per_request_timeout, cell, options))
        receive(consumer, ARRAYS)

    monkeypatch.setattr(received_arrays, "download_object", download_object)
    own, options = receiver.download, {"secure": True, "abort_signal": None, "progress_cb": None}
    with arrays_in_files(tmp_path):
        error, found = receiver.download(from_fqcn="site", ref_id="R", per_request_timeout=9.0, cell="cell", **options)
        assert error is None
        assert _mapped(tmp_path) == 1
        check(found, ARRAYS)
    assert asked == [("site", "R", 9.0, "cell", options)]
    assert receiver.download == own


def test_a_failed_download_gives_its_reason_and_no_arrays(tmp_path, receiver, monkeypatch):
    def download_object(from_fqcn, ref_id, per_request_timeout, cell, consumer, **options):
        receive(consumer, ARRAYS)
        consumer.download_failed(ref_id, "the site is gone")

    monkeypatch.setattr(received_arrays, "download_object", download_object)
    with arrays_in_files(tmp_path):
        found = receiver.download(from_fqcn="site", ref_id="R", per_request_timeout=9.0, cell=None)
    assert found == ("the site is gone", None)
    assert _mapped(tmp_path) == 0


def test_arrays_of_this_process_can_be_kept_in_a_file(tmp_path):
    found = kept_in_file(iter(ARRAYS.items()), tmp_path)
    assert _mapped(tmp_path) == 1
    check(found, ARRAYS)
    found.clear()
    assert _mapped(tmp_path) == 0
