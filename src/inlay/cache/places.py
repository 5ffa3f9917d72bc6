"""Where the disk tier's entries lie: an LMDB map from digest to segment and slot, shared by processes.

In: digests with their places. Out: places, which may be out of date: whoever reads there checks what it finds.
Also counts the segments, so that a number is never used twice. Knows nothing of what lies in a place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import lmdb

_PLACE = struct.Struct("<II")  # segment, slot
_COUNTER = b"last segment"
KEY_BYTES = 16  # of the digest; the whole digest is in the record
SMALLEST_MAP = 64 << 20  # bytes of address space


class Place(NamedTuple):
    """A slot of a segment."""

    segment: int
    slot: int


class Places:
    """The index in a directory. Its writes are serialised over all processes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._map = lmdb.open(
            str(path), map_size=max(SMALLEST_MAP, max_bytes), sync=False, metasync=False, readahead=False
        )

    @property
    def num_entries(self) -> int:
        with self._map.begin() as transaction:
            has_counter = transaction.get(_COUNTER) is not None
            return int(transaction.stat()["entries"]) - has_counter

    @property
    def is_cut_short(self) -> bool:
        """Is the file shorter than it says? Reading what is missing would kill the process."""
        needed = (self._map.info()["last_pgno"] + 1) * self._map.stat()["psize"]
        return (self._path / "data.mdb").stat().st_size < int(needed)

    def find_many(self, digests: list[bytes]) -> list[Place | None]:
        """The place of each digest."""
        with self._map.begin() as transaction:
            found = [transaction.get(digest[:KEY_BYTES]) for digest in digests]
        return [None if place is None else Place(*_PLACE.unpack(place)) for place in found]

    def put_many(self, places: Iterable[tuple[bytes, Place]]) -> None:
        pairs = [(digest[:KEY_BYTES], _PLACE.pack(*place)) for digest, place in places]
        with self._map.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs)

    def forget_many(self, places: Iterable[tuple[bytes, Place]]) -> int:
        """Drop digests that still have these places; how many did."""
        forgotten = 0
        with self._map.begin(write=True) as transaction:
            for digest, place in places:
                key = digest[:KEY_BYTES]
                if transaction.get(key) == _PLACE.pack(*place):
                    transaction.delete(key)
                    forgotten += 1
        return forgotten

    def take_number(self, newest: Callable[[], int]) -> int:
        """A number for a new segment, above all that were given and above the `newest` file's."""
        with self._map.begin(write=True) as transaction:
            number = max(int(transaction.get(_COUNTER, b"0")), newest()) + 1  # the counter goes when the index is lost
            transaction.put(_COUNTER, b"%d" % number)
        return number

    def clear(self) -> None:
        """Empty it, but for the counter: other processes may have the files of old numbers open."""
        with self._map.begin(write=True) as transaction:
            newest = transaction.get(_COUNTER)
            transaction.drop(self._map.open_db(), delete=False)
            if newest is not None:
                transaction.put(_COUNTER, newest)

    def close(self) -> None:
        self._map.sync(True)
        self._map.close()
