"""The disk tier: segment files with the payloads, and an LMDB index from key to segment and slot.

In and out: entries by key. Data is written first and the index second, so an index entry never points at
what is not there yet; whatever it points at is checked by key and checksum when it is read, so a torn
tail, a flipped bit, a vanished segment or a stale index are misses. A damaged index is rebuilt while the tier goes
on. Many processes may use one directory: each fills segments of its own (`cache.segment_writer`). Look-ups have a
thread of their own, and so has what takes long: no look-up waits for a disk that writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import lmdb

from inlay.cache.disk.segment_index import DAMAGE, Place, SegmentIndex
from inlay.cache.disk.segment_writer import SegmentWriter
from inlay.cache.disk.segments import Segments
from inlay.cache.record import NEVER, Record, room_of
from inlay.telemetry.logs import get_logger
from inlay.types import Entry

log = get_logger("cache")

INDEX = "index"
REBUILD_BATCH = 10_000  # entries of one transaction
COUNT_SECONDS = 5.0  # how old the numbers of a tier may be that another process writes to


class DiskTier:
    """At most `max_bytes` of segments in a directory, entries for at most `ttl` seconds."""

    name = "disk"
    lookup_seconds = 0.5  # a disk that takes longer is a miss

    def __init__(self, path: Path, max_bytes: int, ttl: float | None = None) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.errors = 0
        self._places = SegmentIndex(path / INDEX, max_bytes)
        self._segments = Segments(path)  # for look-ups
        self._writer = SegmentWriter(path, max_bytes, self._places)
        self._is_mending = False
        self._counted = (0, 0)  # entries, bytes
        self._counted_at = -COUNT_SECONDS
        self._lookups = ThreadPoolExecutor(1, thread_name_prefix="inlay-disk-read")
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="inlay-disk-write")

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here, whole and not expired."""
        return await asyncio.get_running_loop().run_in_executor(self._lookups, self.read_many, list(keys))

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries; OSError when the disk is full."""
        await asyncio.get_running_loop().run_in_executor(self._writes, self.write_many, dict(entries))

    def numbers(self) -> Mapping[str, float]:
        """What was counted last: nobody waits for a disk here."""
        if time.monotonic() - self._counted_at > COUNT_SECONDS:
            self._counted_at = time.monotonic()
            self._writes.submit(self._count)
        entries, num_bytes = self._counted
        return {"entries": entries, "bytes": num_bytes, "evictions": self.evictions, "errors": self.errors}

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writes, self.release)
        self._writes.shutdown()

    @property
    def evictions(self) -> int:
        return self._writer.evictions

    @property
    def is_index_lost(self) -> bool:
        return self._places.is_lost

    def settle(self) -> None:
        """The index is as it was left; see `SegmentIndex.settle`."""
        self._places.settle()
        self._count()

    @property
    def num_entries(self) -> int:
        return self._places.num_entries

    @property
    def num_bytes(self) -> int:
        """Of all segments, room that is set aside included."""
        return sum(size for _, size in self._segments.listed())

    def read_many(self, keys: list[bytes]) -> dict[bytes, Entry]:
        """The same as `get_many`, on the calling thread."""
        found: dict[bytes, Entry] = {}
        now = time.time()
        self._segments.sweep()
        for key, place in zip(keys, self._places.find_many(keys), strict=True):
            record = None if place is None else self._read(place)
            if record is not None and record.key == key and record.expires > now:
                found[key] = record.entry
            elif record is None and place is not None:
                self.errors += self._is_broken(place)
        if self._places.is_damaged and not self._is_mending:
            self._is_mending = True
            self._writes.submit(self.mend)
        return found

    def write_many(self, entries: Mapping[bytes, Entry]) -> None:
        """The same as `put_many`, on the calling thread."""
        expires = NEVER if self.ttl is None else time.time() + self.ttl
        rooms: dict[int, list[Record]] = {}
        for key, entry in entries.items():
            rooms.setdefault(room_of(len(entry.payload)), []).append(Record(key, expires, entry))
        try:
            self._writer.write_many(rooms)
        except DAMAGE:
            self.mend()
            self._writer.write_many(rooms)
        self._count()

    def mend(self) -> None:
        """Put a new index in the place of a damaged one, from what the segments have; once, whoever has seen it."""
        if not (self._places.is_damaged or self._places.is_lost):
            self._is_mending = False
            return
        self.errors += 1
        log.warning("the cache's index is damaged; rebuilding it", path=str(self.path))
        try:
            self._places.replace()
            log.info("the cache's index was rebuilt", path=str(self.path), entries=self.rebuild())
        finally:
            self._is_mending = False

    def records(self) -> Iterator[tuple[int, int, Record]]:
        """Every good record of every segment, oldest first, with its segment and slot."""
        segments = Segments(self.path)
        for number, _ in segments.listed():
            segment = segments.open(number)
            if segment is not None:
                yield from ((number, slot, record) for slot, record in segment.read_all())
        segments.close()

    def rebuild(self) -> int:
        """Rebuild the index from the segments; the number of entries."""
        self._places.clear()
        records = self.records()
        while batch := list(islice(records, REBUILD_BATCH)):
            self._places.put_many((record.key, Place(number, slot)) for number, slot, record in batch)
        self.settle()
        return self.num_entries

    def check(self) -> tuple[int, int]:
        """How many records are good, and how many slots hold something that is none."""
        good = bad = 0
        for number, _ in self._segments.listed():
            segment = self._segments.open(number)
            if segment is None:
                bad += 1
                continue
            for slot in range(segment.num_slots):
                is_good = segment.read(slot) is not None
                good += is_good
                bad += not is_good and not segment.is_empty(slot)
        return good, bad

    def purge(self) -> None:
        """Drop everything."""
        self._writer.drop_all()
        self._places.clear()

    def release(self) -> None:
        """The same as `close`, on the calling thread."""
        self._lookups.shutdown()
        self._segments.close()
        self._writer.close()
        self._places.close()

    def _count(self) -> None:
        try:
            self._counted = (self.num_entries, self.num_bytes)
        except (lmdb.Error, OSError) as error:
            log.debug("the cache cannot be counted", path=str(self.path), error=repr(error))

    def _read(self, place: Place) -> Record | None:
        segment = self._segments.open(place.segment)
        return None if segment is None else segment.read(place.slot)

    def _is_broken(self, place: Place) -> bool:
        """Does a slot hold something that is no record? A segment that was dropped holds nothing."""
        segment = self._segments.open(place.segment)
        return segment is not None and place.slot < segment.num_slots and not segment.is_empty(place.slot)
