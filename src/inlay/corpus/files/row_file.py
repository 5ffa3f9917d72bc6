"""Rows of one size in a file, read one by one, if need be only from the page cache.

In: a row's number. Out: its bytes. With `NO_WAIT` a row that would have to come from the disk raises
`BlockingIOError` instead, so that an event loop may read rows that are in memory anyway without a thread.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)  # Linux; None where the system cannot tell


class RowFile:
    """The rows of a .npy file that is also mapped."""

    def __init__(self, path: Path, mapped: npt.NDArray[Any]) -> None:
        self.num_bytes = mapped.itemsize * int(np.prod(mapped.shape[1:], dtype=np.int64))
        self._begin = path.stat().st_size - mapped.nbytes
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, row: int, flags: int = 0) -> bytearray:
        """The bytes of a row, fewer where the file ends; `BlockingIOError` under `NO_WAIT`, OSError for a fault."""
        data = bytearray(self.num_bytes)
        got = os.preadv(self._file, [data], self._begin + row * self.num_bytes, flags)
        if got < self.num_bytes and flags:
            raise BlockingIOError("the rest of the row is not in memory")
        return data[:got]


class RecordFile:
    """Lines of a file, read by their places and not through a map: the file may be cut short meanwhile."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, begin: int, end: int | None) -> bytes:
        """From `begin` to `end`, or to the end of the file; fewer bytes where it ends before."""
        size = os.fstat(self._file).st_size
        end = size if end is None else min(end, size)
        return os.pread(self._file, end - begin, begin) if end > begin else b""
