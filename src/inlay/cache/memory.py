"""The memory tier: payloads in pre-allocated arenas, kept by S3-FIFO, bounded in bytes.

In and out: entries by key. Payloads are copied in and out, so that no batch stays alive for one row and no
reader sees a row that has been given to another key. Payloads of about one length share a shelf; shelves grow in
slabs until the bound is reached, and then let go of their own keys. Lives on one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from inlay.cache.eviction import S3Fifo
from inlay.cache.record import room_of
from inlay.types import Entry

KEY_OVERHEAD = 576  # bytes of a key in dict, queues and ghosts beside the payload's own, rounded up
SLAB_BYTES = 1 << 20
LEAST_SLABS = 8  # of a tier: small ones have small slabs


@dataclass(slots=True, eq=False)
class _Shelf:
    """Rows of one kind, with room for so many bytes. Row r lies in slab r // slab_rows."""

    kind: str
    room: int
    slab_rows: int
    slabs: list[memoryview] = field(default_factory=list)  # each slab_rows · room bytes
    keys: list[bytes | None] = field(default_factory=list)  # of each row
    free: list[int] = field(default_factory=list)
    order: S3Fifo = field(default_factory=S3Fifo)

    @property
    def row_bytes(self) -> int:
        return self.room + KEY_OVERHEAD

    @property
    def slab_bytes(self) -> int:
        return self.slab_rows * self.row_bytes

    @property
    def num_bytes(self) -> int:
        return len(self.slabs) * self.slab_bytes

    def read(self, row: int, length: int) -> bytes:
        """A copy of what a row holds."""
        start = row % self.slab_rows * self.room
        return bytes(self.slabs[row // self.slab_rows][start : start + length])

    def write(self, row: int, payload: bytes) -> None:
        start = row % self.slab_rows * self.room
        self.slabs[row // self.slab_rows][start : start + len(payload)] = payload

    def grow(self) -> None:
        first = len(self.slabs) * self.slab_rows
        self.slabs.append(memoryview(bytearray(self.slab_rows * self.room)))
        self.keys.extend([None] * self.slab_rows)
        self.free.extend(range(first + self.slab_rows - 1, first - 1, -1))


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: _Shelf
    row: int
    slack: int  # bytes of the row's room that the payload leaves: a small number, which costs no memory
    num_tokens: int
    is_truncated: bool

    def holds(self, entry: Entry) -> bool:
        """Is it of the same kind and length?"""
        return self.shelf.kind == entry.kind and self.shelf.room - self.slack == len(entry.payload)


class MemoryTier:
    """At most `max_bytes`, counted by slabs that are in use, bookkeeping included."""

    name = "memory"
    lookup_seconds = None

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.evictions = 0
        self._shelves: dict[tuple[str, int], _Shelf] = {}
        self._places: dict[bytes, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here."""
        found: dict[bytes, Entry] = {}
        for key in keys:
            place = self._places.get(key)
            if place is not None:
                shelf = place.shelf
                shelf.order.use(key)
                payload = shelf.read(place.row, shelf.room - place.slack)
                found[key] = Entry(shelf.kind, payload, place.num_tokens, place.is_truncated)
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries, and let others go where the bound asks for it."""
        for key, entry in entries.items():
            if (known := self._places.get(key)) is not None:
                if known.holds(entry):
                    continue
                self._drop(key)
            shelf = self._shelf_of(entry.kind, room_of(len(entry.payload)))
            row = None if shelf is None else self._take_row(shelf)
            if shelf is None or row is None:
                continue
            shelf.write(row, entry.payload)
            shelf.order.add(key)
            shelf.keys[row] = key
            slack = shelf.room - len(entry.payload)
            self._places[key] = _Place(shelf, row, slack, entry.num_tokens, entry.is_truncated)

    def numbers(self) -> Mapping[str, float]:
        return {"entries": len(self), "bytes": self.num_bytes, "evictions": self.evictions}

    async def close(self) -> None:
        self._shelves.clear()
        self._places.clear()
        self.num_bytes = 0

    def _shelf_of(self, kind: str, room: int) -> _Shelf | None:
        """The shelf of a kind's rows with so much room; None where not even one row fits the bound."""
        if (kind, room) not in self._shelves:
            row_bytes = room + KEY_OVERHEAD
            if row_bytes > self.max_bytes:
                return None
            slab_bytes = min(SLAB_BYTES, self.max_bytes // LEAST_SLABS)
            self._shelves[kind, room] = _Shelf(kind, room, max(1, slab_bytes // row_bytes))
        return self._shelves[kind, room]

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
        """Let go of one key, whose payload is another now."""
        shelf = self._places[key].shelf
        shelf.order.remove(key)
        shelf.free.append(self._forget(key))

    def _forget(self, key: bytes) -> int:
        self.evictions += 1
        place = self._places.pop(key)
        place.shelf.keys[place.row] = None
        return place.row
