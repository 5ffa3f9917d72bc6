"""A part of a corpus: vectors, keys and records in files that nobody changes any more. The vectors are mapped.

The manifest has the hash of rows.npy, which is checked when the part is opened, and rows.npy proves each vector
and each record when it is read. So what is broken, or another corpus's, is never given out.

vectors.npy    [n, width] float32 (canonical) or float16 (unit vectors)
scales.npy     [n] float32, one over the length of the vector
rows.npy       [n] key of the cache (32 bytes) · num_tokens · truncated · crc32 of these and the vector · crc32 of
                   the record · where it begins
records.jsonl  {"id": …, "text": …, and the columns that were kept}, a line a row
short_keys.npy   [distinct] first 8 bytes of the keys as numbers, sorted
places.npy     [distinct] the row of each
failed.jsonl   rows of the input that have no vector, with the reason
Other kinds of output, where they are kept: see `ragged` and `postings`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from inlay.corpus.files.postings import POSTINGS, Postings
from inlay.corpus.files.ragged import Ragged
from inlay.corpus.files.row_file import RecordFile, RowFile
from inlay.corpus.manifest import PartInfo
from inlay.errors import ConfigError, CorpusDamaged
from inlay.file_guard import FileGuard
from inlay.types import SPARSE, FloatArray

VECTORS, SCALES, ROWS, RECORDS = "vectors.npy", "scales.npy", "rows.npy", "records.jsonl"
SHORT_KEYS, PLACES, FAILED = "short_keys.npy", "places.npy", "failed.jsonl"
ROW = np.dtype(
    [
        ("key", "V32"),
        ("num_tokens", "<u4"),
        ("truncated", "<u4"),
        ("crc32", "<u4"),
        ("record_crc32", "<u4"),
        ("record", "<u8"),
    ]
)
ROW_BYTES = struct.Struct("<32sIIIIQ")  # the same, for one row

KEY_BYTES = 32

Array = npt.NDArray[Any]


class TextVector(NamedTuple):
    """The vector of one text."""

    vector: Array  # canonical, or of length one in float16
    num_tokens: int
    is_truncated: bool
    others: Mapping[str, Array] = {}  # by kind, what else is kept of it


def check_of(key: bytes, num_tokens: int, truncated: int, vector: Array) -> int:
    """The crc32 that proves a row."""
    head = key + num_tokens.to_bytes(4, "little") + truncated.to_bytes(4, "little")
    return zlib.crc32(np.ascontiguousarray(vector).data.cast("B"), zlib.crc32(head))


def short_key_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


class Part:
    """One part, open for reading."""

    def __init__(self, path: Path, info: PartInfo, first_row: int, others: Sequence[str] = ()) -> None:
        self.info = info
        self.first_row = first_row  # in the corpus
        try:
            self.vectors = _load(path / VECTORS)
            self.scales: FloatArray = np.array(_load(path / SCALES))
            rows = _load(path / ROWS)
            self._short_keys = np.array(_load(path / SHORT_KEYS))  # in memory: most look-ups end with it
            self._places = np.array(_load(path / PLACES))
            self._row_bytes = RowFile(path / ROWS, rows)
            self._vector_bytes = RowFile(path / VECTORS, self.vectors)
            self._records = RecordFile(path / RECORDS)
            self._others = {kind: Ragged(path, kind) for kind in others}
            self.postings = Postings(path, info.num_rows) if SPARSE in self._others else None
            mapped = [path / VECTORS, *(own.path for own in self._others.values())]
            self._guard = FileGuard(mapped)  # files that stay mapped
        except (OSError, EOFError, ValueError, SyntaxError, TokenError) as error:  # numpy parses headers as Python
            raise ConfigError(f"{path} is incomplete ({error}): rebuild the corpus") from error
        for name in (ROWS, *(POSTINGS if self.postings is not None else ())):  # nothing proves what is in these
            if sha256_of(path / name) != info.sha256.get(name):
                raise ConfigError(f"{path / name} is not the one in the manifest: rebuild the corpus")
        lengths = {*map(len, (self.vectors, self.scales, rows)), *map(len, self._others.values())}
        if lengths != {info.num_rows}:
            raise ConfigError(f"{path} is incomplete (its files have {lengths} rows): rebuild the corpus")

    def check_map(self) -> None:
        """`CorpusDamaged` where reading the vectors would end the process: their file was cut short."""
        if (file := self._guard.shortened()) is not None:
            raise CorpusDamaged(f"{file} was cut short while it is served: restore it, and restart the server")

    def find(self, key: bytes, flags: int = 0) -> tuple[int, TextVector | None] | None:
        """The row that has a key, and what it holds (None: its bytes do not prove themselves); None: not here."""
        short = short_key_of(key)
        place = int(np.searchsorted(self._short_keys, np.uint64(short)))
        while place < len(self._short_keys) and self._short_keys[place] == short:
            row = int(self._places[place])
            data = self._row_bytes.read(row, flags)
            if data[: len(key)] == key:
                return row, self._decode(row, data, flags)
            place += 1
        return None

    def key(self, row: int) -> bytes:
        return bytes(self._row_bytes.read(row)[:KEY_BYTES])

    def vector_of(self, row: int) -> TextVector | None:
        """A row as it is stored; None when its bytes do not prove themselves."""
        return self._decode(row, self._row_bytes.read(row), 0)

    def others_of(self, row: int) -> dict[str, Array] | None:
        """What else is kept of a row, by kind; None when some of it does not prove itself."""
        self.check_map()
        found = {kind: ragged.row(row) for kind, ragged in self._others.items()}
        whole = {kind: array for kind, array in found.items() if array is not None}
        return whole if len(whole) == len(found) else None

    def _decode(self, row: int, data: bytearray, flags: int) -> TextVector | None:
        stored = self._vector_bytes.read(row, flags)
        if len(data) < ROW_BYTES.size or len(stored) < self._vector_bytes.num_bytes:
            return None
        key, num_tokens, truncated, crc, _, _ = ROW_BYTES.unpack(data)
        vector = np.frombuffer(stored, dtype=self.vectors.dtype)
        vector.flags.writeable = False
        if check_of(key, num_tokens, truncated, vector) != crc:
            return None
        return TextVector(vector, num_tokens, bool(truncated))

    def record(self, row: int) -> dict[str, Any] | None:
        """Id, text and kept columns of a row; None when its bytes do not prove themselves."""
        is_last = row + 1 == self.info.num_rows
        data, following = self._row_bytes.read(row), b"" if is_last else self._row_bytes.read(row + 1)
        if len(data) < ROW_BYTES.size or not (is_last or len(following) == ROW_BYTES.size):
            return None
        *_, crc, begin = ROW_BYTES.unpack(data)
        end = None if is_last else ROW_BYTES.unpack(following)[-1]
        line = self._records.read(begin, end)
        if zlib.crc32(line) != crc:
            return None
        decoded: dict[str, Any] = msgspec.json.decode(line)
        return decoded

    def records(self) -> Iterator[dict[str, Any] | None]:
        """All records, in the order of the rows."""
        return map(self.record, range(self.info.num_rows))


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
