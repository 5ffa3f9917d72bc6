"""Arrays of different lengths, one for each row of a part: their values end to end, and where each of them ends.

NAME_values.npy  [total, …] the values of all rows
NAME_ends.npy    [n] where a row ends in them · crc32 of its values
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.corpus.files.npy_writer import HEADER_BYTES, NpyWriter
from inlay.types import COLBERT, SPARSE, SPARSE_ROW

Array = npt.NDArray[Any]
END = np.dtype([("end", "<u8"), ("crc32", "<u4")])


def layout_of(kind: str, width: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What a corpus keeps of a kind of output: dtype and shape of one value."""
    layouts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        SPARSE: (SPARSE_ROW, ()),
        COLBERT: (np.dtype("<f2"), (width,)),  # rows of unit length: a corpus has many, and they only rank
    }
    return layouts[kind]


def kept_form(kind: str, array: Array) -> Array:
    """What a model or a corpus gave, as a corpus keeps it."""
    if kind != COLBERT or array.dtype.itemsize == 2:
        return array
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return (array / np.where(lengths > 0, lengths, 1)).astype("<f2")


class RaggedWriter:
    """Grows row by row; taken up at `num_rows`, which the files have."""

    def __init__(self, directory: Path, kind: str, width: int, num_rows: int) -> None:
        dtype, shape = layout_of(kind, width)
        values, ends = _paths(directory, kind)
        self._ends = NpyWriter(ends, END, (), num_rows)
        total = int(self._ends.read(num_rows - 1)["end"]) if num_rows else 0
        self._values = NpyWriter(values, dtype, shape, total)

    def append(self, array: Array) -> None:
        own = np.ascontiguousarray(array, dtype=self._values.dtype)
        self._values.append(own)
        end = (self._values.num_rows, zlib.crc32(own.data.cast("B")) if own.size else 0)
        self._ends.append(np.array([end], dtype=END))

    def read(self, row: int) -> Array:
        """A row that was appended before."""
        start = int(self._ends.read(row - 1)["end"]) if row else 0
        return self._values.read_many(start, int(self._ends.read(row)["end"]))

    def sync(self) -> None:
        self._values.sync()
        self._ends.sync()

    def finish(self) -> None:
        self._values.finish()
        self._ends.finish()


def sizes_needed(directory: Path, kind: str, width: int, num_rows: int) -> dict[str, int]:
    """How long both files must be to hold so many rows, by their names."""
    dtype, shape = layout_of(kind, width)
    values, ends = _paths(directory, kind)
    ends_size = HEADER_BYTES + num_rows * END.itemsize
    if num_rows == 0 or not ends.exists() or ends.stat().st_size < ends_size:
        return {ends.name: ends_size}
    with ends.open("rb") as file:
        file.seek(ends_size - END.itemsize)
        total = int(np.frombuffer(file.read(END.itemsize), dtype=END)["end"][0])
    value_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return {ends.name: ends_size, values.name: HEADER_BYTES + total * value_bytes}


class Ragged:
    """The same, open for reading; the values are mapped."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.path, path_of_ends = _paths(directory, kind)
        self.values: Array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        ends = np.load(path_of_ends, allow_pickle=False)
        self._ends, self._crcs = ends["end"].astype(np.int64), ends["crc32"]

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        lengths: npt.NDArray[np.int64] = np.diff(self._ends, prepend=0)
        return lengths

    def row(self, row: int) -> Array | None:
        """The values of a row; None when its bytes are not what they were."""
        start = int(self._ends[row - 1]) if row else 0
        own = np.array(self.values[start : int(self._ends[row])])
        crc = zlib.crc32(own.data.cast("B")) if own.size else 0
        return own if crc == int(self._crcs[row]) else None


def _paths(directory: Path, kind: str) -> tuple[Path, Path]:
    """Of the values and the ends."""
    return directory / f"{kind}_values.npy", directory / f"{kind}_ends.npy"
