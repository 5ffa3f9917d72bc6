"""A .npy file that grows: appended to block by block, cut back after a crash, and a plain .npy at the end.

In: arrays. Out: a file that `numpy.load(..., mmap_mode="r")` opens. The header is written with the final
number of rows when the file is finished; numpy leaves room in it for a longer shape.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 128  # at the least


class NpyWriter:
    """Rows of one dtype and shape, `num_rows` of them so far."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...] = (), num_rows: int = 0) -> None:
        self.path = path
        self.dtype = dtype
        self.row_shape = row_shape
        self.num_rows = num_rows
        self._row_bytes = dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._begin = self._write_header()
        self._file.flush()
        self._file.truncate(self._begin + num_rows * self._row_bytes)
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: npt.NDArray[Any]) -> None:
        if len(rows):  # an empty array has no bytes to look at
            self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B"))
            self.num_rows += len(rows)

    def read(self, row: int) -> npt.NDArray[Any]:
        """One row that was appended before."""
        self._file.flush()
        data = os.pread(self._file.fileno(), self._row_bytes, self._begin + row * self._row_bytes)
        return np.frombuffer(data, dtype=self.dtype).reshape(self.row_shape)

    def read_many(self, start: int, end: int) -> npt.NDArray[Any]:
        """Rows that were appended before."""
        self._file.flush()
        data = os.pread(self._file.fileno(), (end - start) * self._row_bytes, self._begin + start * self._row_bytes)
        return np.frombuffer(data, dtype=self.dtype).reshape(-1, *self.row_shape)

    def sync(self) -> None:
        """All that was appended is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """The header tells the number of rows; nothing can be appended any more."""
        self._file.seek(0)
        self._write_header()
        self.sync()
        self._file.close()

    def _write_header(self) -> int:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()
