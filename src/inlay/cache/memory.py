"""The memory tier: vectors in pre-allocated arenas, kept by S3-FIFO, bounded in bytes.

In and out: entries by key. Vectors are copied in and out, so that no batch stays alive for one row and no
reader sees a row that has been given to another key. Each width has a shelf of its own; shelves grow in
slabs until the bound is reached, and then let go of their own keys. Lives on one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from inlay.cache.eviction import S3Fifo
from inlay.types import Entry, FloatArray

KEY_OVERHEAD = 576  # bytes of a key in dict, queues and ghosts beside the vector's own, rounded up
SLAB_BYTES = 1 << 20
LEAST_SLABS = 8  # of a tier: small ones have small slabs


@dataclass(slots=True, eq=False)
class _Shelf:
    """Rows of one width. Row r lies in slab r // slab_rows."""

    width: int
    slab_rows: int
    slabs: list[FloatArray] = field(default_factory=list)  # each [slab_rows, width]
    keys: list[bytes | None] = field(default_factory=list)  # of each row
    free: list[int] = field(default_factory=list)
    order: S3Fifo = field(default_factory=S3Fifo)

    @property
    def row_bytes(self) -> int:
        return self.width * 4 + KEY_OVERHEAD

    @property
    def slab_bytes(self) -> int:
        return self.slab_rows * self.row_bytes

    @property
    def num_bytes(self) -> int:
        return len(self.slabs) * self.slab_bytes

    def row(self, number: int) -> FloatArray:
        row: FloatArray = self.slabs[number // self.slab_rows][number % self.slab_rows]
        return row

    def grow(self) -> None:
        first = len(self.slabs) * self.slab_rows
        self.slabs.append(np.empty((self.slab_rows, self.width), dtype=np.float32))
        self.keys.extend([None] * self.slab_rows)
        self.free.extend(range(first + self.slab_rows - 1, first - 1, -1))


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: _Shelf
    row: int
    num_tokens: int
    is_truncated: bool


class MemoryTier:
    """At most `max_bytes`, counted by slabs that are in use, bookkeeping included."""

    name = "memory"
    lookup_seconds = None

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.evictions = 0
        self._shelves: dict[int, _Shelf] = {}
        self._places: dict[bytes, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here."""
        found: dict[bytes, Entry] = {}
        for key in keys:
            place = self._places.get(key)
            if place is not None:
                place.shelf.order.use(key)
                vector = place.shelf.row(place.row).copy()
                vector.flags.writeable = False
                found[key] = Entry(vector, place.num_tokens, place.is_truncated)
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries, and let others go where the bound asks for it."""
        for key, entry in entries.items():
            if (known := self._places.get(key)) is not None:
                if known.shelf.width == len(entry.vector):
                    continue
                self._drop(key)
            shelf = self._shelf_of(len(entry.vector))
            row = None if shelf is None else self._take_row(shelf)
            if shelf is None or row is None:
                continue
            shelf.row(row)[:] = entry.vector
            shelf.order.add(key)
            shelf.keys[row] = key
            self._places[key] = _Place(shelf, row, entry.num_tokens, entry.is_truncated)

    def numbers(self) -> Mapping[str, float]:
        return {"entries": len(self), "bytes": self.num_bytes, "evictions": self.evictions}

    async def close(self) -> None:
        self._shelves.clear()
        self._places.clear()
        self.num_bytes = 0

    def _shelf_of(self, width: int) -> _Shelf | None:
        """The shelf of a width; None where not even one row fits the bound."""
        if width not in self._shelves:
            row_bytes = width * 4 + KEY_OVERHEAD
            if row_bytes > self.max_bytes:
                return None
            slab_bytes = min(SLAB_BYTES, self.max_bytes // LEAST_SLABS)
            self._shelves[width] = _Shelf(width, max(1, slab_bytes // row_bytes))
        return self._shelves[width]

    def _take_row(self, shelf: _Shelf) -> int | None:
        """A free row: one that is left, one of a new slab, or one whose key has to go."""
        if not shelf.free:
            self._grow(shelf)
        if shelf.free:
            return shelf.free.pop()
        if not len(shelf.order):
            return None
        return self._forget(shelf.order.evict())

    def _grow(self, shelf: _Shelf) -> None:
        """Add a slab if the bound allows; a shelf with less than its share takes the room of the largest."""
        share = self.max_bytes // len(self._shelves)
        while self.num_bytes + shelf.slab_bytes > self.max_bytes and (
            not shelf.slabs or shelf.num_bytes + shelf.slab_bytes <= share
        ):
            largest = max(self._shelves.values(), key=lambda other: other.num_bytes)
            if not largest.slabs or largest is shelf:
                return
            self._drop_slab(largest)
        if self.num_bytes + shelf.slab_bytes <= self.max_bytes:
            shelf.grow()
            self.num_bytes += shelf.slab_bytes

    def _drop_slab(self, shelf: _Shelf) -> None:
        """Let go of a shelf's last slab and of the keys in it."""
        first = (len(shelf.slabs) - 1) * shelf.slab_rows
        for key in shelf.keys[first:]:
            if key is not None:
                shelf.order.remove(key)
                self._forget(key)
        del shelf.keys[first:]
        shelf.free = [row for row in shelf.free if row < first]
        shelf.slabs.pop()
        self.num_bytes -= shelf.slab_bytes

    def _drop(self, key: bytes) -> None:
        """Let go of one key, whose vector is another now."""
        shelf = self._places[key].shelf
        shelf.order.remove(key)
        shelf.free.append(self._forget(key))

    def _forget(self, key: bytes) -> int:
        self.evictions += 1
        place = self._places.pop(key)
        place.shelf.keys[place.row] = None
        return place.row
