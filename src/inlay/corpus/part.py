"""A part of a corpus: vectors, keys and records in files that are mapped, and that nobody changes any more.

vectors.npy    [n, width] float32 (canonical) or float16 (unit vectors)
scales.npy     [n] float32, one over the length of the vector
rows.npy       [n] digest of the cache key · num_tokens · truncated · crc32 of these and the vector · where
               the record begins
records.jsonl  {"id": …, "text": …, and the columns that were kept}, a line a row
prefixes.npy   [distinct] first 8 bytes of the digests as numbers, sorted
places.npy     [distinct] the row of each
failed.jsonl   rows of the input that have no vector, with the reason
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from inlay.corpus.manifest import PartInfo
from inlay.errors import ConfigError
from inlay.types import Entry, FloatArray

VECTORS, SCALES, ROWS, RECORDS = "vectors.npy", "scales.npy", "rows.npy", "records.jsonl"
PREFIXES, PLACES, FAILED = "prefixes.npy", "places.npy", "failed.jsonl"
ROW = np.dtype([("digest", "V32"), ("num_tokens", "<u4"), ("truncated", "<u4"), ("crc32", "<u4"), ("record", "<u8")])

Array = npt.NDArray[Any]


def check_of(digest: bytes, num_tokens: int, truncated: int, vector: Array) -> int:
    """The crc32 that proves a row."""
    head = digest + num_tokens.to_bytes(4, "little") + truncated.to_bytes(4, "little")
    return zlib.crc32(np.ascontiguousarray(vector).data.cast("B"), zlib.crc32(head))


def prefix_of(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


class Part:
    """One part, open for reading."""

    def __init__(self, path: Path, info: PartInfo, first_row: int) -> None:
        self._path = path
        self.info = info
        self.first_row = first_row  # in the corpus
        try:
            self.vectors = _load(path / VECTORS)
            self.scales: FloatArray = _load(path / SCALES)
            self._rows = _load(path / ROWS)
            self._prefixes = np.array(_load(path / PREFIXES))  # in memory: most look-ups end with it
            self._places = _load(path / PLACES)
            self._records: npt.NDArray[np.uint8] = np.memmap(path / RECORDS, dtype=np.uint8, mode="r")
        except (OSError, ValueError, SyntaxError, TokenError) as error:  # numpy parses headers as Python
            raise ConfigError(f"{path} is not whole ({error}): make the corpus anew") from error
        lengths = {len(array) for array in (self.vectors, self.scales, self._rows)}
        if lengths != {info.num_rows}:
            raise ConfigError(f"{path} is not whole (its files have {lengths} rows): make the corpus anew")

    def likely_many(self, digests: list[bytes]) -> list[bytes]:
        """Those that may be here, by their first bytes alone; touches no disk."""
        wanted = np.array([prefix_of(digest) for digest in digests], dtype=np.uint64)
        places = np.minimum(np.searchsorted(self._prefixes, wanted), len(self._prefixes) - 1)
        return [digest for digest, is_here in zip(digests, self._prefixes[places] == wanted, strict=True) if is_here]

    def find_many(self, digests: list[bytes]) -> dict[bytes, int]:
        """The row in this part of each digest that is here."""
        wanted = np.array([prefix_of(digest) for digest in digests], dtype=np.uint64)
        starts = np.searchsorted(self._prefixes, wanted)
        found: dict[bytes, int] = {}
        for digest, prefix, start in zip(digests, wanted.tolist(), starts.tolist(), strict=True):
            for place in range(start, len(self._prefixes)):
                if self._prefixes[place] != prefix:
                    break
                row = int(self._places[place])
                if self.digest(row) == digest:
                    found[digest] = row
                    break
        return found

    def digest(self, row: int) -> bytes:
        return bytes(self._rows["digest"][row])

    def entry(self, row: int) -> Entry | None:
        """A row as it is stored; None when its bytes do not prove themselves."""
        digest, num_tokens, truncated, crc, _ = self._rows[row].item()
        vector = np.array(self.vectors[row])
        if check_of(bytes(digest), num_tokens, truncated, vector) != crc:
            return None
        return Entry(vector, num_tokens, bool(truncated))

    def record(self, row: int) -> dict[str, Any]:
        """Id, text and kept columns of a row."""
        begin = int(self._rows["record"][row])
        is_last = row + 1 == self.info.num_rows
        end = len(self._records) if is_last else int(self._rows["record"][row + 1])
        decoded: dict[str, Any] = msgspec.json.decode(self._records[begin:end].tobytes())
        return decoded

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in the order of the rows."""
        with (self._path / RECORDS).open("rb") as file:
            for line in file:
                yield msgspec.json.decode(line)


def _load(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
