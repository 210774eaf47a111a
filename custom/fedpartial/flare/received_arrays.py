"""The arrays of the sites' answers lie in files while the server works on one answer after the other.

FLARE 2.9 sends the arrays of a message apart from it; the receiver fetches them, tensor by tensor, when it decodes the
message, in a thread for each sender. So as many models lie in the server's memory as sites answer at the same time,
although answers are handled one by one. FLARE's own remedy, enable_tensor_disk_offload, is for torch tensors only and
hands on references that filters and aggregators have to load; messages here hold numpy arrays, and these stay numpy
arrays: views of a mapped file without a name, which the disk has back when the last of them is gone, or the process.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from nvflare.app_common.np.np_downloader import ArrayConsumer
from nvflare.fuel.f3.streaming.download_service import download_object
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import dots
from nvflare.fuel.utils.log_utils import get_obj_logger

ALIGNMENT = 64
ONE_AT_A_TIME = Lock()
"""For unpacking what has arrived. NumPy parses an array's header with the ast module, which in Python before 3.11.8 or
3.12.2 fails now and then where two threads use it (CPython issue 106905), and FLARE ends the server's job process when
an answer cannot be decoded. It also leaves room for one unpacked portion at a time, not for one of every sender."""


@contextmanager
def arrays_in_files(folder: Path) -> Iterator[None]:
    """While this lasts, arrays that this process receives from other processes lie in unnamed files in ``folder``."""
    receiver = fobs.get_dot_handler(dots.NUMPY_DOWNLOAD)
    if receiver is None:  # nothing has come from FLARE's network yet, nor will: a federation in one process
        yield
        return
    receiver.download = lambda **options: _download(folder, **options)
    try:
        yield
    finally:
        del receiver.download  # of the instance: its class's own comes back


def kept_in_file(arrays: Iterable[tuple[str, np.ndarray]], folder: Path) -> dict[str, np.ndarray]:
    """The same arrays in an unnamed file in ``folder``; with a generator one at a time needs memory."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        kept = ArrayFile(file)
        for name, array in arrays:
            kept.add(name, array)
        return kept.arrays()


def _download(
    folder: Path, *, from_fqcn: str, ref_id: str, cell: Any, per_request_timeout: float, **options: Any
) -> tuple[str | None, dict[str, np.ndarray] | None]:
    """As nvflare.app_common.np.np_downloader.download_arrays: (error, arrays by name)."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        consumer = FileConsumer(ArrayFile(file))
        download_object(from_fqcn, ref_id, per_request_timeout, cell, consumer, **options)
        return consumer.error, None if consumer.error else consumer.file.arrays()


class FileConsumer(ArrayConsumer):
    """Adds what arrives to a file."""

    def __init__(self, file: ArrayFile):
        super().__init__(self._add, {})
        self.file = file

    def consume_items(self, items: list[bytes], result: Any) -> Any:
        with ONE_AT_A_TIME:
            return super().consume_items(items, result)

    def _add(self, arrays: dict[str, np.ndarray]) -> None:
        """Called with every portion that has come."""
        for name, array in arrays.items():
            self.file.add(name, array)


class ArrayFile:
    """Arrays in a file; what finds no space there stays in memory.

    The file may be closed, and its name be gone, while there are arrays of it.
    """

    def __init__(self, file: RawIOBase):
        self.logger = get_obj_logger(self)
        self._file = file
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        self._in_memory: dict[str, np.ndarray] = {}

    def add(self, name: str, array: np.ndarray) -> None:
        start = -(-self._file.seek(0, os.SEEK_END) // ALIGNMENT) * ALIGNMENT
        try:
            self._append(start, array)
            self._places[name] = start, array.dtype, array.shape
        except OSError as error:
            self.logger.warning(f"an array of {array.nbytes} bytes stays in memory: {error}")
            self._in_memory[name] = array

    def _append(self, start: int, array: np.ndarray) -> None:
        self._file.seek(start)
        left = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        while left:
            left = left[self._file.write(left) :]

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was added, writable; a page that is written to becomes memory, the file stays as it is."""
        size = self._file.seek(0, os.SEEK_END)
        mapped = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_COPY) if size else b""
        found = {name: _view(mapped, *place) for name, place in self._places.items()}
        return found | self._in_memory


def _view(mapped: mmap.mmap | bytes, start: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    return np.frombuffer(mapped, dtype, count, start).reshape(shape) if count else np.empty(shape, dtype)
